# SPDX-License-Identifier: Apache-2.0
"""Budget -> placeholders: the processor writes as many placeholders per image or video as the model keeps tokens."""

from .transformers_surface import check_methods  # noqa: F401  first: it says what a release of transformers lacks


# isort: split
from os import PathLike
from typing import Any

from transformers import BatchFeature, LlavaNextProcessor, LlavaProcessor
from transformers.image_utils import get_image_size, make_flat_list_of_images, to_numpy_array
from transformers.processing_utils import ImagesKwargs, ProcessingKwargs, Unpack
from transformers.video_utils import make_batched_videos

from .budget import keep_count
from .call_arguments import check_call, take_budget
from .compat_processing import CallCompat
from .configuration_divprune import DivPruneConfig
from .saved_code import save_code
from .settings import IMAGE_BUDGET


# isort: split
# transformers 4.57 ships only what this file imports: tests/remote_code/test_direct_imports.py writes
from .family_names import FamilyNames  # noqa: F401
from .selectors import Images  # noqa: F401


class DivPruneImagesKwargs(ImagesKwargs, total=False):
    """The budgets of one call. Typed `Any`: transformers' own type check would refuse an int ratio with its own error,
    the checks of `SETTINGS` judge both."""

    __annotations__ = dict.fromkeys(IMAGE_BUDGET, Any)  # type: ignore[misc]  # from the table of settings


class DivPruneProcessorKwargs(ProcessingKwargs, total=False):
    """Arguments of a call besides text, images and videos."""

    images_kwargs: DivPruneImagesKwargs  # type: ignore[misc]  # as in transformers' own processors
    _defaults = {"text_kwargs": {"padding": False}, "images_kwargs": {}}  # type: ignore[misc]  # as transformers has it


class DivPruneProcessorMixin(CallCompat):
    """Common part of the families' processors.

    The budget is `divprune_config` (a plain dict, as stored), or per call `retention_ratio=` or `num_tokens=`. The
    output carries `num_image_tokens_kept` (int64, `(num_images,)`), which the model follows. An argument of a call that
    would have no effect raises a `ValueError`.
    """

    valid_processor_kwargs = DivPruneProcessorKwargs
    takes_videos = False

    # Spelt out: transformers reads the names of this signature to load and to save a processor.
    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        patch_size: int | None = None,
        vision_feature_select_strategy: str | None = None,
        chat_template: str | None = None,
        image_token: str = "<image>",
        num_additional_image_tokens: int = 0,
        divprune_config: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            image_processor,
            tokenizer,
            patch_size=patch_size,
            vision_feature_select_strategy=vision_feature_select_strategy,
            chat_template=chat_template,
            image_token=image_token,
            num_additional_image_tokens=num_additional_image_tokens,
            **kwargs,
        )
        self._hold(divprune_config)

    # Typed arguments: vLLM reads them, and takes any other name for one that a new processor is loaded with.
    def __call__(
        self, images: Any = None, text: Any = None, *args: Any, **kwargs: Unpack[DivPruneProcessorKwargs]
    ) -> BatchFeature:
        """Process images and text as the stock processor does, with one placeholder per kept token."""
        return super().__call__(images, text, *args, **kwargs)

    def _hold(self, divprune_config: Any) -> None:
        # transformers 4.57 drops config objects when it saves a processor: the stored form is a dict.
        self.divprune_config = DivPruneConfig.merged(divprune_config, takes_videos=self.takes_videos).to_block()

    @classmethod
    def from_args_and_dict(cls, args: Any, processor_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Make a processor as the stock class does; an override of the settings updates the stored ones."""
        if "divprune_config" in kwargs:
            blocks = processor_dict.get("divprune_config"), kwargs["divprune_config"]
            kwargs["divprune_config"] = DivPruneConfig.merged(*blocks, takes_videos=cls.takes_videos).to_block()
        return super().from_args_and_dict(args, processor_dict, **kwargs)

    def save_pretrained(self, save_directory: str | PathLike, *args: Any, **kwargs: Any) -> Any:
        """Save the processor as the stock class does, with all code beside it."""
        saved = super().save_pretrained(save_directory, *args, **kwargs)
        save_code(self, save_directory)
        return saved

    def image_tokens_kept(self, num_available: list[int], **budget: Any) -> list[int]:
        """Return how many visual tokens of each image are kept (K).

        Args:
            num_available (`list[int]`): how many visual tokens each image has (M).
            budget: `retention_ratio` or `num_tokens` of this call; without one, the stored budget holds.
        """
        of_call = DivPruneConfig.merged(self.divprune_config, budget, takes_videos=self.takes_videos).budget
        return [keep_count(available, **of_call) for available in num_available]

    def _get_num_multimodal_tokens(self, image_sizes: Any = None, **kwargs: Any) -> Any:
        """Count visual tokens as the parent does, but the kept ones: serving engines size their buffers by them.

        They pass the arguments that all calls will have, so those without an effect are refused before the first call.
        """
        check_call(self, kwargs)
        budget = take_budget(kwargs, "images_kwargs", IMAGE_BUDGET)
        data = super()._get_num_multimodal_tokens(image_sizes=image_sizes, **kwargs)
        if data.num_image_tokens is not None:
            kept = self.image_tokens_kept(data.num_image_tokens, **budget)
            data.num_image_tokens = self._in_prompt(data.num_image_tokens, kept)
        return data

    def patches_of_view(self, height: int, width: int) -> tuple[int, int]:
        """Return the rows and columns of patches in a view of so many pixels, one visual token each."""
        return height // self.patch_size, width // self.patch_size

    def _in_prompt(self, num_available: list[int], kept: list[int]) -> list[int]:
        """Return the placeholders of each image or video: K, or M where a deeper layer drops tokens."""
        return num_available if self.divprune_config.get("layer") else kept

    @property
    def model_input_names(self) -> list[str]:
        """Names of what a call returns: the stock processor's, and the counts."""
        return [*super().model_input_names, "num_image_tokens_kept"]

    @staticmethod
    def _check_text(text: Any) -> None:
        """Raise on what is neither a text nor several: into ids some releases would write no placeholder."""
        parts = text if isinstance(text, (list, tuple)) else [] if text is None else [text]
        foreign = [type(part).__name__ for part in parts if not isinstance(part, str)]
        if foreign:
            raise ValueError(
                f"Got a text that is or holds a {foreign[0]}, expected a string or a list of strings, into which "
                "placeholders can be written: decode ids first (processor.decode)."
            )

    def _check_inputs(self, images: Any, text: Any, videos: Any) -> None:
        """Raise unless the text has a placeholder for each image and video."""
        if videos is not None and not self.takes_videos:
            raise ValueError(f"Got videos for {type(self).__name__}, which takes images only.")
        texts = [text] if isinstance(text, str) else list(text or [])
        pictures: Any = [] if images is None else make_flat_list_of_images(images)
        given: list[tuple[str, str, Any]] = [("image", self.image_token, pictures)]
        if self.takes_videos:
            given.append(("video", self.video_token, [] if videos is None else make_batched_videos(videos)))
        for name, token, inputs in given if texts else ():
            num_placeholders = sum(text.count(token) for text in texts)
            if num_placeholders != len(inputs):
                raise ValueError(
                    f"Got {len(inputs)} {name}s for {num_placeholders} {token} in the text, expected as many: "
                    f"write one {token} for each {name}."
                )

    def _process_images(self, images: Any, **kwargs: Any) -> tuple[Any, list[str]]:
        """Return what the model needs of the images, and each one's placeholders. A hook of transformers 5."""
        budget = {name: kwargs.pop(name) for name in IMAGE_BUDGET if name in kwargs}
        image_inputs = self.image_processor(images, **kwargs)
        num_available = self.count_image_tokens(image_inputs)
        kept = self.image_tokens_kept(num_available, **budget)
        image_inputs["num_image_tokens_kept"] = kept
        return image_inputs, [self.image_token * count for count in self._in_prompt(num_available, kept)]

    def validate_inputs(self, images: Any = None, text: Any = None, videos: Any = None, **kwargs: Any) -> None:
        """Check inputs as the parent does, after placeholders are counted. A hook of transformers 5."""
        self._check_inputs(images, text, videos)
        super().validate_inputs(images=images, text=text, videos=videos, **kwargs)


class DivPruneLlavaProcessor(DivPruneProcessorMixin, LlavaProcessor):  # type: ignore[misc]  # arguments come by name
    """Processor of LLaVA-1.5 with pruned visual tokens.

    Modifications:
    - `divprune_config` (`dict`, *optional*): the budget, as in the model's config;
    - `retention_ratio=` and `num_tokens=` in a call set the budget of that call;
    - one placeholder per kept token instead of one per visual token, and `num_image_tokens_kept` in the output.
    """

    def count_image_tokens(self, image_inputs: Any) -> list[int]:
        """Count the visual tokens (M) that the model has for each image before pruning.

        Args:
            image_inputs: what the image processor returns; `pixel_values` is read.

        Returns:
            `list[int]`, one count per image.
        """
        dropped_cls = 1 if self.vision_feature_select_strategy == "default" else 0
        extra = self.num_additional_image_tokens - dropped_cls
        sizes = [get_image_size(to_numpy_array(image)) for image in image_inputs["pixel_values"]]
        return [(height // self.patch_size) * (width // self.patch_size) + extra for height, width in sizes]


class DivPruneLlavaNextProcessorMixin(DivPruneProcessorMixin):
    """Common part of the processors of LLaVA-NeXT and LLaVA-NeXT-Video: pictures of any resolution."""

    def count_image_tokens(self, image_inputs: Any) -> list[int]:
        """Count the visual tokens (M) that the model has for each image before pruning.

        Args:
            image_inputs: what the image processor returns; `pixel_values` and `image_sizes` are read.

        Returns:
            `list[int]`, one count per image.
        """
        height, width = get_image_size(to_numpy_array(image_inputs["pixel_values"][0][0]))
        dropped_cls = 1 if self.vision_feature_select_strategy == "default" else 0
        return [
            self._get_number_of_features(int(image_height), int(image_width), height, width) - dropped_cls
            for image_height, image_width in image_inputs["image_sizes"]
        ]


class DivPruneLlavaNextProcessor(DivPruneLlavaNextProcessorMixin, LlavaNextProcessor):  # type: ignore[misc]  # arguments come by name
    """Processor of LLaVA-1.6 (LLaVA-NeXT) with pruned visual tokens.

    Modifications: those of `DivPruneLlavaProcessor`. An image's visual tokens, of which its share is kept, are those of
    its base view and of its crops without padding, and a newline token for each row of the crops.
    """
