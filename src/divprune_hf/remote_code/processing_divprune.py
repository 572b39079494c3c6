# SPDX-License-Identifier: Apache-2.0
"""Budget -> placeholders: the processor writes as many placeholders per image or video as the model keeps tokens."""

from .transformers_surface import check_methods  # noqa: F401  first: it says what a release of transformers lacks


# isort: split
from typing import Any

from transformers import LlavaNextProcessor, LlavaProcessor
from transformers.image_utils import get_image_size, make_flat_list_of_images, to_numpy_array
from transformers.processing_utils import ImagesKwargs, ProcessingKwargs
from transformers.video_utils import make_batched_videos

from .compat_processing import CallCompat
from .configuration_divprune import DivPruneConfig
from .saved_code import save_code
from .selectors import selector_named  # noqa: F401  transformers 4.57 ships only what this file imports
from .token_budget import keep_count


class DivPruneImagesKwargs(ImagesKwargs, total=False):
    """The budget of one call. Typed `Any`: transformers' own type check would refuse an int ratio with its own error,
    `check_budget` judges both."""

    retention_ratio: Any
    num_tokens: Any


class DivPruneProcessorKwargs(ProcessingKwargs, total=False):
    images_kwargs: DivPruneImagesKwargs
    _defaults = {"text_kwargs": {"padding": False}, "images_kwargs": {}}


class DivPruneProcessorMixin(CallCompat):
    """Common part of the families' processors.

    The budget is `divprune_config` (a plain dict, as stored), or per call `retention_ratio=` or `num_tokens=`. The
    output carries `num_image_tokens_kept` (int64, `(num_images,)`), which the model follows.
    """

    valid_processor_kwargs = DivPruneProcessorKwargs
    takes_videos = False

    # Spelt out: transformers reads the names of this signature to load and to save a processor.
    def __init__(
        self,
        image_processor=None,
        tokenizer=None,
        patch_size=None,
        vision_feature_select_strategy=None,
        chat_template=None,
        image_token="<image>",
        num_additional_image_tokens=0,
        divprune_config=None,
        **kwargs,
    ):
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

    def _hold(self, divprune_config):
        # transformers 4.57 drops config objects when it saves a processor: the stored form is a dict.
        self.divprune_config = DivPruneConfig.merged(divprune_config, takes_videos=self.takes_videos).to_block()

    @classmethod
    def from_args_and_dict(cls, args, processor_dict, **kwargs):
        if "divprune_config" in kwargs:
            blocks = processor_dict.get("divprune_config"), kwargs["divprune_config"]
            kwargs["divprune_config"] = DivPruneConfig.merged(*blocks, takes_videos=cls.takes_videos).to_block()
        return super().from_args_and_dict(args, processor_dict, **kwargs)

    def save_pretrained(self, save_directory, *args, **kwargs):
        """As the stock processor's, with all code beside it."""
        saved = super().save_pretrained(save_directory, *args, **kwargs)
        save_code(self, save_directory)
        return saved

    def image_tokens_kept(self, num_image_tokens, retention_ratio=None, num_tokens=None):
        """Return how many of each image's visual tokens are kept.

        Args:
            num_image_tokens (`list[int]`): how many visual tokens each image has.
            retention_ratio, num_tokens: this call's budget; without one, the stored budget holds.

        Returns:
            `list[int]`, one count per image.
        """
        override = {"retention_ratio": retention_ratio, "num_tokens": num_tokens}
        budget = DivPruneConfig.merged(self.divprune_config, override, takes_videos=self.takes_videos).budget
        return [keep_count(available, **budget) for available in num_image_tokens]

    def _get_num_multimodal_tokens(self, image_sizes=None, retention_ratio=None, num_tokens=None, **kwargs):
        """As the parent's, with the kept counts: serving engines size their buffers by them."""
        data = super()._get_num_multimodal_tokens(image_sizes=image_sizes, **kwargs)
        if data.num_image_tokens is not None:
            data.num_image_tokens = self.image_tokens_kept(data.num_image_tokens, retention_ratio, num_tokens)
        return data

    @property
    def model_input_names(self):
        return [*super().model_input_names, "num_image_tokens_kept"]

    @staticmethod
    def _check_text(text):
        """Raise on what is neither a text nor several: into ids some releases would write no placeholder."""
        parts = text if isinstance(text, (list, tuple)) else [] if text is None else [text]
        foreign = [type(part).__name__ for part in parts if not isinstance(part, str)]
        if foreign:
            raise ValueError(
                f"Got a text that is or holds a {foreign[0]}, expected a string or a list of strings, into which "
                "placeholders can be written: decode ids first (processor.decode)."
            )

    def _check_inputs(self, images, text, videos):
        """Raise unless the text has a placeholder for each image and video."""
        if videos is not None and not self.takes_videos:
            raise ValueError(f"Got videos for {type(self).__name__}, which takes images only.")
        texts = [text] if isinstance(text, str) else list(text or [])
        given = {"image": [] if images is None else make_flat_list_of_images(images)}
        if self.takes_videos:
            given["video"] = [] if videos is None else make_batched_videos(videos)
        for name, inputs in given.items() if texts else ():
            token = getattr(self, f"{name}_token")
            num_placeholders = sum(text.count(token) for text in texts)
            if num_placeholders != len(inputs):
                raise ValueError(
                    f"Got {len(inputs)} {name}s for {num_placeholders} {token} in the text, expected as many: "
                    f"write one {token} for each {name}."
                )

    def _process_images(self, images, retention_ratio=None, num_tokens=None, **kwargs):
        """Return what the model needs of the images, and each one's placeholders. A hook of transformers 5."""
        image_inputs = self.image_processor(images, **kwargs)
        kept = self.image_tokens_kept(self.count_image_tokens(image_inputs), retention_ratio, num_tokens)
        image_inputs["num_image_tokens_kept"] = kept
        return image_inputs, [self.image_token * count for count in kept]

    def validate_inputs(self, images=None, text=None, videos=None, **kwargs):
        """As the parent's, with placeholders counted first, for its words. A hook of transformers 5."""
        self._check_inputs(images, text, videos)
        super().validate_inputs(images=images, text=text, videos=videos, **kwargs)


class DivPruneLlavaProcessor(DivPruneProcessorMixin, LlavaProcessor):
    """Processor of LLaVA-1.5 with pruned visual tokens.

    Modifications:
    - `divprune_config` (`dict`, *optional*): the budget, as in the model's config;
    - `retention_ratio=` and `num_tokens=` in a call set the budget of that call;
    - one placeholder per kept token instead of one per visual token, and `num_image_tokens_kept` in the output.
    """

    def count_image_tokens(self, image_inputs):
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

    def count_image_tokens(self, image_inputs):
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


class DivPruneLlavaNextProcessor(DivPruneLlavaNextProcessorMixin, LlavaNextProcessor):
    """Processor of LLaVA-1.6 (LLaVA-NeXT) with pruned visual tokens.

    Modifications: those of `DivPruneLlavaProcessor`. An image's visual tokens, of which its share is kept, are those of
    its base view and of its crops without padding, and a newline token for each row of the crops.
    """
