# SPDX-License-Identifier: Apache-2.0
"""Budget -> placeholders: the processor writes as many placeholders per image as the model keeps tokens."""

from typing import Any

from PIL.Image import Image
from transformers import BatchFeature, LlavaNextProcessor, LlavaProcessor
from transformers.image_utils import ChannelDimension, get_image_size, make_flat_list_of_images, to_numpy_array
from transformers.processing_utils import ImagesKwargs, ProcessingKwargs, ProcessorMixin

from .configuration_divprune import HAS_IMAGE_HOOK, DivPruneConfig
from .max_min_diversity import keep_count


class DivPruneImagesKwargs(ImagesKwargs, total=False):
    """The budget of one call. Typed `Any`: transformers' own type check would refuse an int ratio with its own error,
    `check_budget` judges both."""

    retention_ratio: Any
    num_tokens: Any


class DivPruneProcessorKwargs(ProcessingKwargs, total=False):
    images_kwargs: DivPruneImagesKwargs
    _defaults = {"text_kwargs": {"padding": False}, "images_kwargs": {}}


class DivPruneProcessorMixin:
    """What the families' processors share.

    The budget is `divprune_config` (a plain dict, as stored), or per call `retention_ratio=` or `num_tokens=`. The
    output carries `num_image_tokens_kept` (int64, `(num_images,)`), which the model follows.
    """

    valid_processor_kwargs = DivPruneProcessorKwargs

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
        # transformers 4.57 drops config objects when it saves a processor: the stored form is a dict.
        self.divprune_config = DivPruneConfig.merged(divprune_config).to_block()

    @classmethod
    def from_args_and_dict(cls, args, processor_dict, **kwargs):
        if "divprune_config" in kwargs:
            merged = DivPruneConfig.merged(processor_dict.get("divprune_config"), kwargs["divprune_config"])
            kwargs["divprune_config"] = merged.to_block()
        return super().from_args_and_dict(args, processor_dict, **kwargs)

    def image_tokens_kept(self, num_image_tokens, retention_ratio=None, num_tokens=None):
        """How many of each image's visual tokens are kept.

        Args:
            num_image_tokens (`list[int]`): how many visual tokens each image has.
            retention_ratio, num_tokens: this call's budget; without one, the stored budget holds.

        Returns:
            `list[int]`, one count per image.
        """
        override = {"retention_ratio": retention_ratio, "num_tokens": num_tokens}
        budget = DivPruneConfig.merged(self.divprune_config, override).budget
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

    def _check_placeholders(self, texts, num_images):
        num_placeholders = sum(text.count(self.image_token) for text in texts)
        if num_placeholders != num_images:
            raise ValueError(
                f"Got {num_images} images for {num_placeholders} {self.image_token} in the text, expected as many: "
                f"write one {self.image_token} for each image."
            )

    if HAS_IMAGE_HOOK:

        def validate_inputs(self, images=None, text=None, **kwargs):
            super().validate_inputs(images=images, text=text, **kwargs)
            if text is not None:  # transformers 5.10 does not count
                texts = [text] if isinstance(text, str) else text
                self._check_placeholders(texts, 0 if images is None else len(make_flat_list_of_images(images)))

        def _process_images(self, images, retention_ratio=None, num_tokens=None, **kwargs):
            image_inputs, replacements = super()._process_images(images, **kwargs)
            available = [replacement.count(self.image_token) for replacement in replacements]
            kept = self.image_tokens_kept(available, retention_ratio, num_tokens)
            image_inputs["num_image_tokens_kept"] = kept
            return image_inputs, [self.image_token * count for count in kept]

    else:

        def __call__(self, images=None, text=None, audio=None, videos=None, **kwargs):
            if images is None and text is None:
                raise ValueError("Got neither images nor text, expected at least one of them.")
            texts = [text] if isinstance(text, str) else list(text or [])
            # Taken out before the merge, which forgets an image setting given by itself when `images_kwargs` is given.
            flat = {name: kwargs.pop(name) for name in ("retention_ratio", "num_tokens") if name in kwargs}
            kwargs = self._merge_kwargs(
                DivPruneProcessorKwargs, tokenizer_init_kwargs=self.tokenizer.init_kwargs, **kwargs
            )
            text_kwargs, images_kwargs = kwargs["text_kwargs"], kwargs["images_kwargs"]
            return_tensors = text_kwargs.pop("return_tensors", None)
            with_token_types = text_kwargs.pop("return_mm_token_type_ids", False)
            budget = {name: images_kwargs.pop(name, None) for name in ("retention_ratio", "num_tokens")}
            for name, value in flat.items():
                if budget[name] is not None:
                    raise ValueError(f"Got {name} by itself and in images_kwargs, expected it once.")
                budget[name] = value
            image_inputs, kept = {}, []
            if images is not None:
                images = self.image_processor.fetch_images(images)
                if all(isinstance(image, Image) for image in make_flat_list_of_images(images)):
                    # Otherwise guessed from the shape, wrongly for pictures 1 or 3 pixels high.
                    images_kwargs.setdefault("input_data_format", ChannelDimension.LAST)
                    if getattr(self.image_processor, "do_convert_rgb", None) is None:
                        images_kwargs.setdefault("do_convert_rgb", True)
                image_inputs = self.image_processor(images, **images_kwargs)
                kept = self.image_tokens_kept(self.count_image_tokens(image_inputs), **budget)
                image_inputs["num_image_tokens_kept"] = kept
            data = dict(image_inputs)
            if texts:
                texts = self._expand(texts, kept)
                text_inputs = self.tokenizer(texts, **text_kwargs, return_tensors=None)
                self._check_special_mm_tokens(texts, text_inputs, modalities=["image"])
                if with_token_types:
                    text_inputs["mm_token_type_ids"] = [
                        [int(token == self.image_token_id) for token in row] for row in text_inputs["input_ids"]
                    ]
                data = {**text_inputs, **data}
            return BatchFeature(data=data, tensor_type=return_tensors)

        def _expand(self, texts, kept):
            """Write each image's placeholder as often as it keeps tokens, in order over the batch."""
            self._check_placeholders(texts, len(kept))
            remaining = iter(kept)
            expanded = []
            for text in texts:
                first, *rest = text.split(self.image_token)
                expanded.append(first + "".join(self.image_token * next(remaining) + part for part in rest))
            return expanded


class DivPruneLlavaProcessor(DivPruneProcessorMixin, LlavaProcessor):
    """Processor of LLaVA-1.5 with pruned visual tokens.

    Modifications:
    - `divprune_config` (`dict`, *optional*): the budget, as in the model's config;
    - `retention_ratio=` and `num_tokens=` in a call set the budget of that call;
    - one placeholder per kept token instead of one per visual token, and `num_image_tokens_kept` in the output.
    """

    def count_image_tokens(self, image_inputs):
        """How many visual tokens (M) the model has for each image before pruning.

        Args:
            image_inputs: what the image processor returns; `pixel_values` is read.

        Returns:
            `list[int]`, one count per image.
        """
        dropped_cls = 1 if self.vision_feature_select_strategy == "default" else 0
        extra = self.num_additional_image_tokens - dropped_cls
        sizes = [get_image_size(to_numpy_array(image)) for image in image_inputs["pixel_values"]]
        return [(height // self.patch_size) * (width // self.patch_size) + extra for height, width in sizes]


class DivPruneLlavaNextProcessor(DivPruneProcessorMixin, LlavaNextProcessor):
    """Processor of LLaVA-1.6 (LLaVA-NeXT) with pruned visual tokens.

    Modifications: those of `DivPruneLlavaProcessor`. An image's visual tokens, of which its share is kept, are those of
    its base view and of its crops without padding, and a newline token for each row of the crops.
    """

    def count_image_tokens(self, image_inputs):
        """How many visual tokens (M) the model has for each image before pruning.

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

    if HAS_IMAGE_HOOK and "replace_image_token" not in vars(LlavaNextProcessor):
        # The first transformers with the hook do not use it for this family yet.
        __call__ = ProcessorMixin.__call__

        def replace_image_token(self, image_inputs, image_idx, **kwargs):
            return self.image_token * self.count_image_tokens(image_inputs)[image_idx]
