"""The model families as data: what transformers calls them, and which classes of ours stand for them."""

import importlib
from dataclasses import dataclass
from typing import Any

from divprune_hf.remote_code.family_names import FAMILY_NAMES, FamilyNames
from divprune_hf.remote_code.transformers_surface import runs_family


# The vision towers whose features LLaVA's own pipeline can take apart; Pixtral's, for one, come in another way.
VISION_MODEL_TYPES = ("clip_vision_model", "siglip_vision_model", "dinov2")


@dataclass(frozen=True)
class Family:
    """One model family of transformers and its pruned counterpart, whose classes are imported when they are asked for.

    Args:
        base_model_type: the stock family's `model_type`.
        title: what people call it.
        unit: what an image's budget holds for, in words.
        image_processor_type: the class that the stock family falls back to where a checkpoint names none.
        video_processor_type: the same for videos; None for a family that takes none.
    """

    base_model_type: str
    title: str
    unit: str
    image_processor_type: str
    video_processor_type: str | None = None

    @property
    def names(self) -> FamilyNames:
        """The names of its classes and their files."""
        return FAMILY_NAMES[self.base_model_type]

    @property
    def model_type(self) -> str:
        """The pruned model's `model_type`."""
        return f"divprune_{self.base_model_type}"

    @property
    def releases(self) -> str:
        """The releases of transformers that the family runs on, in words."""
        major, minor = self.names.release
        return "4.57, or 5.10 and later" if major == 4 else f"{major}.{minor} or later"

    @property
    def is_supported(self) -> bool:
        """True where the installed transformers is new enough for the family."""
        return runs_family(self.names.release)

    @property
    def takes_videos(self) -> bool:
        """True for a family that has a budget for videos too."""
        return self.video_processor_type is not None

    @property
    def config_class(self) -> Any:
        """The config of the pruned model."""
        return class_of(self.names.configuration, f"{self.names.prefix}Config")

    @property
    def model_class(self) -> Any:
        """The pruned model without its language modelling head."""
        return class_of(self.names.modeling, f"{self.names.prefix}Model")

    @property
    def head_class(self) -> Any:
        """The pruned model with its language modelling head."""
        return class_of(self.names.modeling, f"{self.names.prefix}ForConditionalGeneration")

    @property
    def processor_class(self) -> Any:
        """The processor of the pruned model."""
        return class_of(self.names.processing, f"{self.names.prefix}Processor")

    @property
    def processor_reference(self) -> str:
        """The place of the processor in a model repo, as transformers writes it."""
        return f"{self.names.processing}.{self.names.prefix}Processor"


def class_of(file: str, name: str) -> Any:
    """Return a class of a file of `remote_code`."""
    return vars(importlib.import_module(f"divprune_hf.remote_code.{file}"))[name]


ANY_RESOLUTION = "an image: its base view, its crops and their newline tokens are one pool"
FAMILIES = {
    family.base_model_type: family
    for family in [
        Family("llava", "LLaVA-1.5", "an image", image_processor_type="CLIPImageProcessor"),
        Family("llava_next", "LLaVA-1.6 (NeXT)", ANY_RESOLUTION, image_processor_type="LlavaNextImageProcessor"),
        Family(
            "llava_next_video",
            "LLaVA-NeXT-Video",
            ANY_RESOLUTION,
            image_processor_type="LlavaNextImageProcessor",
            video_processor_type="LlavaNextVideoVideoProcessor",
        ),
        Family(
            "llava_onevision",
            "LLaVA-OneVision",
            f"{ANY_RESOLUTION}; of several images in a prompt each has its base view alone",
            image_processor_type="LlavaOnevisionImageProcessor",
            video_processor_type="LlavaOnevisionVideoProcessor",
        ),
    ]
}


def supported_families() -> list[Family]:
    """Return the families that the installed transformers is new enough for."""
    return [family for family in FAMILIES.values() if family.is_supported]
