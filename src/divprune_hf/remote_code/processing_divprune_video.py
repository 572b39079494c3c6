# SPDX-License-Identifier: Apache-2.0
"""Budget -> placeholders, for videos."""

from .transformers_surface import check_methods  # noqa: F401  first: it says what a release of transformers lacks


# isort: split
from os import PathLike
from typing import Any

import torch
from PIL.Image import Image
from transformers import BatchFeature, LlavaNextProcessor, LlavaNextVideoProcessor
from transformers.processing_utils import Unpack, VideosKwargs
from transformers.video_utils import make_batched_videos

from .budget import keep_count
from .call_arguments import take_budget
from .configuration_divprune import DivPruneConfig
from .missing_torchvision import MissingVideoProcessor, check_torchvision, why_no_torchvision
from .processing_divprune import DivPruneLlavaNextProcessorMixin, DivPruneProcessorKwargs, DivPruneProcessorMixin
from .settings import VIDEO_BUDGET


# isort: split
# transformers 4.57 ships only what this file imports: tests/remote_code/test_direct_imports.py writes
from .compat_processing import CallWithHooks  # noqa: F401
from .family_names import FamilyNames  # noqa: F401
from .saved_code import save_code  # noqa: F401
from .selectors import Images  # noqa: F401


POOLING_STRIDE = 2  # the model pools 2 x 2 patches of a frame into one visual token


class DivPruneVideosKwargs(VideosKwargs, total=False):
    """The budgets of one call, typed as `DivPruneImagesKwargs` is."""

    __annotations__ = dict.fromkeys(VIDEO_BUDGET, Any)  # type: ignore[misc]  # from the table of settings


class DivPruneVideoProcessorKwargs(DivPruneProcessorKwargs, total=False):
    """Arguments of a call besides text, images and videos."""

    videos_kwargs: DivPruneVideosKwargs  # type: ignore[misc]  # as in transformers' own processors
    _defaults = DivPruneProcessorKwargs._defaults  # type: ignore[misc]  # not inherited


class DivPruneVideoProcessorMixin(DivPruneProcessorMixin):
    """Common part of the processors of families that take videos.

    Modifications:
    - `video_retention_ratio=` and `video_num_tokens=` in a call set the budget of that call, for all frames together;
    - one placeholder per kept token, and `num_video_tokens_kept` (int64, `(num_videos,)`) in the output;
    - `_get_num_multimodal_tokens` counts the kept tokens of videos too.

    Each family has its own `count_video_tokens` and `available_video_tokens`.
    """

    valid_processor_kwargs = DivPruneVideoProcessorKwargs  # type: ignore[assignment]  # more names
    takes_videos = True
    # Where the video processor stands among the parts that the stock class is made from.
    place_of_video_processor = 0

    @classmethod
    def _get_arguments_from_pretrained(cls, *args: Any, **kwargs: Any) -> list[Any]:
        """Load the parts of a processor; where torchvision is missing, those that pictures need."""
        if why_no_torchvision() is None:
            return super()._get_arguments_from_pretrained(*args, **kwargs)
        parts = LlavaNextProcessor._get_arguments_from_pretrained(*args, **kwargs)
        parts.insert(cls.place_of_video_processor, MissingVideoProcessor())
        return parts

    def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
        """Check a part's class as the stock class does; the stand-in for a video processor passes."""
        if isinstance(argument, MissingVideoProcessor):
            return MissingVideoProcessor
        return super().check_argument_for_proper_class(argument_name, argument)

    def __call__(  # type: ignore[override]  # more names
        self, images: Any = None, text: Any = None, *args: Any, **kwargs: Unpack[DivPruneVideoProcessorKwargs]
    ) -> BatchFeature:
        """Process images, videos and text as the stock processor does, with one placeholder per kept token."""
        return super().__call__(images, text, *args, **kwargs)

    def to_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Return the stock class's dict; a stand-in for a video processor has no settings to show."""
        stock = super().to_dict(*args, **kwargs)
        return {name: value for name, value in stock.items() if not isinstance(value, MissingVideoProcessor)}

    def save_pretrained(self, save_directory: str | PathLike, *args: Any, **kwargs: Any) -> Any:
        """Save the processor as the stock class does, with all code beside it; not without its video processor."""
        if isinstance(self.video_processor, MissingVideoProcessor):
            check_torchvision()
        return super().save_pretrained(save_directory, *args, **kwargs)

    @property
    def model_input_names(self) -> list[str]:
        """Names of what a call returns: the stock processor's, and the counts."""
        return [*super().model_input_names, "num_video_tokens_kept"]

    def video_tokens_kept(self, num_available: list[int], **budget: Any) -> list[int]:
        """Return how many visual tokens of each video are kept (K), as `image_tokens_kept` for images."""
        of_call = DivPruneConfig.merged(self.divprune_config, budget, takes_videos=True).video_budget
        return [keep_count(available, **of_call) for available in num_available]

    def _process_videos(self, videos: Any, **kwargs: Any) -> tuple[Any, list[str]]:
        """Return what the model needs of the videos, and each one's placeholders. A hook of transformers 5."""
        budget = {name: kwargs.pop(name) for name in VIDEO_BUDGET if name in kwargs}
        video_inputs = self.video_processor(videos, **{**kwargs, "return_tensors": None})
        pixels = video_inputs["pixel_values_videos"]
        frames = [len(video) for video in pixels]
        if len(set(frames)) > 1:
            raise ValueError(
                f"Got videos of {frames} frames in one call, expected the same number of each: "
                "sample as many frames from every video, or call once per video."
            )
        video_inputs["pixel_values_videos"] = torch.stack(list(pixels))
        num_available = self.count_video_tokens(video_inputs)
        kept = self.video_tokens_kept(num_available, **budget)
        video_inputs["num_video_tokens_kept"] = kept
        return video_inputs, [self.video_token * count for count in self._in_prompt(num_available, kept)]

    def _get_num_multimodal_tokens(self, image_sizes: Any = None, video_sizes: Any = None, **kwargs: Any) -> Any:
        """Count visual tokens as the parent does, but the kept ones of images and of videos.

        Args:
            image_sizes (`list` of (height, width), *optional*).
            video_sizes (`list` of (num_frames, height, width), *optional*).
            kwargs: the budgets, and what the parent takes; without a budget the stored one holds.
        """
        budget = take_budget(kwargs, "videos_kwargs", VIDEO_BUDGET)
        data = super()._get_num_multimodal_tokens(image_sizes=image_sizes, **kwargs)
        # Without a video processor no count is known, which says that there are no videos.
        if video_sizes is not None and not isinstance(self.video_processor, MissingVideoProcessor):
            available = self.available_video_tokens(video_sizes)
            data.num_video_tokens = self._in_prompt(available, self.video_tokens_kept(available, **budget))
        return data

    def _check_inputs(self, images: Any, text: Any, videos: Any) -> None:
        """Check inputs as for images, after a look at the videos."""
        if videos is not None:
            if isinstance(self.video_processor, MissingVideoProcessor):
                check_torchvision()
            check_videos(videos)
        super()._check_inputs(images, text, videos)


class DivPruneLlavaNextVideoProcessor(  # type: ignore[misc]  # arguments come by name
    DivPruneVideoProcessorMixin, DivPruneLlavaNextProcessorMixin, LlavaNextVideoProcessor
):
    """Processor of LLaVA-NeXT-Video with pruned visual tokens.

    Modifications: for images those of `DivPruneLlavaNextProcessor`; for videos those of `DivPruneVideoProcessorMixin`.
    """

    # Spelt out: transformers reads the names of this signature to load and to save a processor.
    def __init__(
        self,
        video_processor: Any = None,
        image_processor: Any = None,
        tokenizer: Any = None,
        chat_template: str | None = None,
        patch_size: int | None = None,
        vision_feature_select_strategy: str | None = None,
        video_token: str = "<video>",
        image_token: str = "<image>",
        num_additional_image_tokens: int = 0,
        divprune_config: Any = None,
        **kwargs: Any,
    ) -> None:
        LlavaNextVideoProcessor.__init__(
            self,
            video_processor,
            image_processor,
            tokenizer,
            chat_template=chat_template,
            patch_size=patch_size,
            vision_feature_select_strategy=vision_feature_select_strategy,
            video_token=video_token,
            image_token=image_token,
            num_additional_image_tokens=num_additional_image_tokens,
            **kwargs,
        )
        self._hold(divprune_config)

    def count_video_tokens(self, video_inputs: Any) -> list[int]:
        """Count the visual tokens (M) that the model has for each video before pruning.

        Args:
            video_inputs: what the video processor returns; `pixel_values_videos` is read.

        Returns:
            `list[int]`, one count per video.
        """
        counts = []
        for video in video_inputs["pixel_values_videos"]:
            num_frames, _, height, width = video.shape
            rows, columns = (length // self.patch_size // POOLING_STRIDE for length in (height, width))
            counts.append(num_frames * rows * columns)
        return counts

    def available_video_tokens(self, video_sizes: Any) -> list[int]:
        """Return how many visual tokens videos of some sizes have (M), each `(num_frames, height, width)`."""
        available = []
        for num_frames, height, width in video_sizes:
            # One frame is enough to learn the size that the video processor gives all of them.
            frame = torch.zeros(1, 3, height, width, dtype=torch.uint8)
            video_inputs = self.video_processor([frame], do_sample_frames=False, return_tensors="pt")
            available.append(num_frames * self.count_video_tokens(video_inputs)[0])
        return available


def check_videos(videos: Any) -> None:
    """Raise on what transformers would take for a video of one frame, leave out, or fail on without a clear word."""
    is_list = isinstance(videos, (list, tuple))
    pictures = [is_picture(video) for video in (videos if is_list else [videos])]
    if any(pictures) and not (is_list and all(pictures)):
        raise ValueError(
            "Got a picture where a video belongs, expected a list of frames, or an array of shape (frames, height, "
            "width, channels): pass [picture] for a video of one frame, and pictures by images=."
        )
    if not pictures or any(0 in video.shape for video in make_batched_videos(videos) if hasattr(video, "shape")):
        raise ValueError("Got a video without frames, expected at least one.")


def is_picture(candidate: Any) -> bool:
    """Tell whether something is one picture: a Pillow image, or an array of two or three dimensions."""
    return isinstance(candidate, Image) or getattr(candidate, "ndim", None) in (2, 3)
