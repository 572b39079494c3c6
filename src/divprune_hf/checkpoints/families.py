"""The model families as data: what transformers calls them, and which classes of ours stand for them."""

from dataclasses import dataclass

from divprune_hf.remote_code.configuration_divprune import (
    DivPruneLlavaConfig,
    DivPruneLlavaNextConfig,
    DivPruneLlavaNextVideoConfig,
)
from divprune_hf.remote_code.modeling_divprune_llava import DivPruneLlavaForConditionalGeneration, DivPruneLlavaModel
from divprune_hf.remote_code.modeling_divprune_llava_next import (
    DivPruneLlavaNextForConditionalGeneration,
    DivPruneLlavaNextModel,
)
from divprune_hf.remote_code.modeling_divprune_llava_next_video import (
    DivPruneLlavaNextVideoForConditionalGeneration,
    DivPruneLlavaNextVideoModel,
)
from divprune_hf.remote_code.processing_divprune import DivPruneLlavaNextProcessor, DivPruneLlavaProcessor
from divprune_hf.remote_code.processing_divprune_video import DivPruneLlavaNextVideoProcessor


# The vision towers whose features LLaVA's own pipeline can take apart; Pixtral's, for one, come in another way.
VISION_MODEL_TYPES = ("clip_vision_model", "siglip_vision_model", "dinov2")


@dataclass(frozen=True)
class Family:
    """One model family of transformers and its pruned counterpart."""

    base_model_type: str
    config_class: type
    model_class: type
    head_class: type
    processor_class: type
    image_processor_type: str  # what the stock family falls back to where a checkpoint names none
    video_processor_type: str | None = None

    @property
    def takes_videos(self):
        return self.config_class.takes_videos

    @property
    def processor_reference(self):
        """The place of the processor in a model repo, as transformers writes it."""
        return f"{self.processor_class.__module__.rpartition('.')[2]}.{self.processor_class.__name__}"


FAMILIES = {
    family.base_model_type: family
    for family in [
        Family(
            base_model_type="llava",
            config_class=DivPruneLlavaConfig,
            model_class=DivPruneLlavaModel,
            head_class=DivPruneLlavaForConditionalGeneration,
            processor_class=DivPruneLlavaProcessor,
            image_processor_type="CLIPImageProcessor",
        ),
        Family(
            base_model_type="llava_next",
            config_class=DivPruneLlavaNextConfig,
            model_class=DivPruneLlavaNextModel,
            head_class=DivPruneLlavaNextForConditionalGeneration,
            processor_class=DivPruneLlavaNextProcessor,
            image_processor_type="LlavaNextImageProcessor",
        ),
        Family(
            base_model_type="llava_next_video",
            config_class=DivPruneLlavaNextVideoConfig,
            model_class=DivPruneLlavaNextVideoModel,
            head_class=DivPruneLlavaNextVideoForConditionalGeneration,
            processor_class=DivPruneLlavaNextVideoProcessor,
            image_processor_type="LlavaNextImageProcessor",
            video_processor_type="LlavaNextVideoVideoProcessor",
        ),
    ]
}
