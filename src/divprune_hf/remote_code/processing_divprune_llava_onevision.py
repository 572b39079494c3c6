# SPDX-License-Identifier: Apache-2.0
"""Budget -> placeholders, for LLaVA-OneVision."""

import math
from typing import Any

from transformers import LlavaOnevisionProcessor

from .family_names import FAMILY_NAMES
from .processing_divprune_video import DivPruneVideoProcessorMixin
from .transformers_surface import check_family_release


# isort: split
# transformers 4.57 ships only what this file imports: tests/remote_code/test_direct_imports.py writes
from .budget import check_ratio  # noqa: F401
from .call_arguments import check_call  # noqa: F401
from .compat_processing import CallWithHooks  # noqa: F401
from .configuration_divprune import DivPruneConfig  # noqa: F401
from .missing_torchvision import MissingVideoProcessor  # noqa: F401
from .processing_divprune import DivPruneImagesKwargs  # noqa: F401
from .saved_code import save_code  # noqa: F401
from .selectors import Images  # noqa: F401
from .settings import Setting  # noqa: F401


check_family_release("llava_onevision", FAMILY_NAMES["llava_onevision"].release)


class DivPruneLlavaOnevisionProcessor(DivPruneVideoProcessorMixin, LlavaOnevisionProcessor):  # type: ignore[misc]  # arguments come by name
    """Processor of LLaVA-OneVision with pruned visual tokens.

    Modifications: those of `DivPruneLlavaProcessor` for images and of `DivPruneVideoProcessorMixin` for videos. An
    image's visual tokens, of which its share is kept, are those of its base view and of its crops without padding, and
    a newline token for each row of the crops; a video's are those of all its frames, and one newline token.
    """

    place_of_video_processor = 2

    # Spelt out: transformers reads the names of this signature to load and to save a processor.
    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        video_processor: Any = None,
        num_image_tokens: int | None = None,
        vision_feature_select_strategy: str | None = None,
        chat_template: str | None = None,
        image_token: str = "<image>",
        video_token: str = "<video>",
        vision_aspect_ratio: str = "anyres_max_9",
        divprune_config: Any = None,
        **kwargs: Any,
    ) -> None:
        LlavaOnevisionProcessor.__init__(
            self,
            image_processor,
            tokenizer,
            video_processor,
            num_image_tokens=num_image_tokens,
            vision_feature_select_strategy=vision_feature_select_strategy,
            chat_template=chat_template,
            image_token=image_token,
            video_token=video_token,
            vision_aspect_ratio=vision_aspect_ratio,
            **kwargs,
        )
        self._hold(divprune_config)

    def count_image_tokens(self, image_inputs: Any) -> list[int]:
        """Count the visual tokens (M) that the model has for each image before pruning.

        Args:
            image_inputs: what the image processor returns; `pixel_values`, `image_sizes` and `batch_num_images` are
                read.

        Returns:
            `list[int]`, one count per image.
        """
        numbers = range(len(image_inputs["image_sizes"]))
        return [self.replace_image_token(image_inputs, number).count(self.image_token) for number in numbers]

    def patches_of_view(self, height: int, width: int) -> tuple[int, int]:
        """Return the rows and columns of patches in a view, one visual token each; all views have one size."""
        side = math.isqrt(self.num_image_tokens)
        return side, side

    def count_video_tokens(self, video_inputs: Any) -> list[int]:
        """Count the visual tokens (M) that the model has for each video before pruning.

        Args:
            video_inputs: what the video processor returns; `pixel_values_videos` is read.

        Returns:
            `list[int]`, one count per video.
        """
        return [self._tokens_of_frames(len(video)) for video in video_inputs["pixel_values_videos"]]

    def available_video_tokens(self, video_sizes: Any) -> list[int]:
        """Return how many visual tokens videos of some sizes have (M), each `(num_frames, height, width)`."""
        return [self._tokens_of_frames(num_frames) for num_frames, _, _ in video_sizes]

    def _tokens_of_frames(self, num_frames: int) -> int:
        side = math.ceil(math.isqrt(self.num_image_tokens) / 2)  # the model pools 2 x 2 patches of a frame into one
        return num_frames * side**2 + 1  # and ends with a newline token
