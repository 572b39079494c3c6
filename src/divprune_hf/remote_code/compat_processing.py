# SPDX-License-Identifier: Apache-2.0
"""Additions for processors on old releases. Delete this file and its one base class with their support."""

from typing import Any

from PIL.Image import Image
from transformers import BatchFeature
from transformers.image_utils import ChannelDimension, make_flat_list_of_images
from transformers.processing_utils import ProcessorMixin

from .call_arguments import check_call
from .settings import IMAGE_BUDGET, PER_CALL
from .transformers_surface import HAS_IMAGE_HOOK, Stock


class CallWithHooks(Stock):
    """The call of transformers 5.10 and later, whose first releases do not use their image hooks in LLaVA-NeXT yet."""

    def __call__(self, images: Any = None, text: Any = None, *args: Any, **kwargs: Any) -> BatchFeature:
        """Process images, text and videos as all stock processors do, after a look at the arguments."""
        check_call(self, kwargs)
        # Before the hooks: some releases copy the text first, and fail on what is no list.
        self._check_text(text)
        text = list(text) if isinstance(text, tuple) else text
        return ProcessorMixin.__call__(self, images, text, *args, **kwargs)


class CallBefore5(Stock):
    """The call of transformers 4.57, where each processor counts placeholders in a `__call__` of its own."""

    def __call__(
        self, images: Any = None, text: Any = None, audio: Any = None, videos: Any = None, **kwargs: Any
    ) -> BatchFeature:
        """Process text, images and videos as the stock processors do, with one placeholder per kept token."""
        check_call(self, kwargs)
        if images is None and text is None and videos is None:
            raise ValueError("Got no images, no videos and no text, expected at least one of them.")
        self._check_text(text)
        texts = [text] if isinstance(text, str) else list(text or [])
        if getattr(videos, "ndim", None) == 5:  # stock 4.57 takes a batch of videos for one
            videos = list(videos)
        # Taken out before the merge, which forgets an argument given by itself beside a dict such as `images_kwargs`.
        flat = {name: kwargs.pop(name) for name in PER_CALL if name in kwargs}
        kwargs = self._merge_kwargs(
            self.valid_processor_kwargs, tokenizer_init_kwargs=self.tokenizer.init_kwargs, **kwargs
        )
        text_kwargs, images_kwargs, videos_kwargs = (kwargs[f"{kind}_kwargs"] for kind in ("text", "images", "videos"))
        return_tensors = text_kwargs.pop("return_tensors", None)
        with_token_types = text_kwargs.pop("return_mm_token_type_ids", False)
        for name, value in flat.items():
            target = images_kwargs if name in IMAGE_BUDGET else videos_kwargs
            if target.get(name) is not None:
                raise ValueError(f"Got {name} by itself and in images_kwargs or videos_kwargs, expected it once.")
            target[name] = value
        images = None if images is None else self.image_processor.fetch_images(images)
        self._check_inputs(images, texts, videos)
        data, replacements = {}, {}
        if images is not None:
            pictures: Any = make_flat_list_of_images(images)
            if all(isinstance(picture, Image) for picture in pictures):
                # Otherwise transformers guesses it from the shape, wrongly for pictures 1 or 3 pixels high. The fast
                # image processors look at what torchvision makes of a picture.
                is_fast = getattr(self.image_processor, "is_fast", False)
                channels = ChannelDimension.FIRST if is_fast else ChannelDimension.LAST
                images_kwargs.setdefault("input_data_format", channels)
                if getattr(self.image_processor, "do_convert_rgb", None) is None:
                    images_kwargs.setdefault("do_convert_rgb", True)
            image_inputs, replacements[self.image_token] = self._process_images(images, **images_kwargs)
            data.update(image_inputs)
        if videos is not None:
            video_inputs, replacements[self.video_token] = self._process_videos(videos, **videos_kwargs)
            data.update(video_inputs)
        if texts:
            for token, replacement in replacements.items():
                texts = replace_in_order(texts, token, replacement)
            text_inputs = self.tokenizer(texts, **text_kwargs, return_tensors=None)
            self._check_special_mm_tokens(texts, text_inputs, modalities=["image", *["video"] * self.takes_videos])
            if with_token_types:
                types = {self.image_token_id: 1, getattr(self, "video_token_id", None): 2}
                text_inputs["mm_token_type_ids"] = [
                    [types.get(token, 0) for token in row] for row in text_inputs["input_ids"]
                ]
            data = {**text_inputs, **data}
        return BatchFeature(data=data, tensor_type=return_tensors)


def replace_in_order(texts: list[str], token: str, replacements: list[str]) -> list[str]:
    """Return the texts with the first `token` of all replaced by the first replacement, and so on."""
    remaining = iter(replacements)
    replaced = []
    for text in texts:
        first, *rest = text.split(token)
        replaced.append(first + "".join(next(remaining) + part for part in rest))
    return replaced


CallCompat: Any = CallWithHooks if HAS_IMAGE_HOOK else CallBefore5
