"""Read the frames of a video, and draw which of their patches a model keeps."""

from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import numpy as np
from PIL import Image
from transformers import BatchFeature
from transformers.video_utils import VideoMetadata, load_video

from divprune_hf.inference.pictures import contact_sheet, draw_kept, model_view


DEFAULT_NUM_FRAMES = 8  # the paper's setting
# Spelt out: the types that Python knows depend on the system.
VIDEO_ENDINGS = (".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ogv", ".webm", ".wmv")


def is_video(source: str) -> bool:
    """Tell whether a path or URL has the ending of a video file."""
    return urlparse(str(source)).path.lower().endswith(VIDEO_ENDINGS)


def read_video(source: str, num_frames: int = DEFAULT_NUM_FRAMES) -> np.ndarray:
    """Return frames of the video at a path or URL, spread evenly over its length.

    Args:
        source (`str`): a video file or its URL.
        num_frames (`int`): the number of frames to take; a shorter video gives all of its frames.

    Returns:
        `np.ndarray` of shape `(num_frames, height, width, 3)`, `uint8`, RGB.

    Raises:
        ValueError: the video cannot be read, `num_frames` is impossible, or PyAV is missing.
    """
    if num_frames < 1:
        raise ValueError(f"Got num_frames={num_frames}, expected at least 1.")
    if Path(source).exists() and not Path(source).is_file():
        raise ValueError(f"{source} is not a video that can be read (it is not a file).")  # a pipe has no end
    try:
        import av
    except ImportError:
        raise ValueError("Reading a video needs PyAV: pip install 'divprune-hf[video]'.") from None

    def evenly_spaced(metadata: VideoMetadata, **kwargs: Any) -> np.ndarray:
        total = metadata.total_num_frames or count_frames(source)
        return np.unique(np.linspace(0, total, min(num_frames, total), endpoint=False).astype(int))

    try:
        with av.open(str(source)) as container:
            if not container.streams.video:
                raise ValueError(f"{source} has no pictures in it, only sound.")
        path: Any = str(source)  # load_video takes one, though its types do not say so
        frames, _ = load_video(path, backend="pyav", sample_indices_fn=evenly_spaced)
    except (av.FFmpegError, OSError, IndexError, TypeError) as error:
        detail = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise ValueError(f"{source} is not a video that can be read ({detail}).") from None
    return frames


def count_frames(source: str) -> int:
    """Count the frames of a video whose header does not hold their number, such as a Matroska file."""
    import av

    with av.open(str(source)) as container:
        return sum(packet.size > 0 for packet in container.demux(video=0))


def draw_frames(inputs: BatchFeature, processor: Any, picks: list[int]) -> Image.Image:
    """Draw the frames of one video that a model sees on one sheet, with the patches that it keeps.

    Args:
        inputs: the output of `processor` for this video, as tensors.
        processor: the processor of a pruned model.
        picks (`list[int]`): indices of the kept visual tokens.
    """
    frames = inputs["pixel_values_videos"][0]
    num_available = processor.count_video_tokens(inputs)[0]
    tokens_per_frame = num_available // len(frames)
    side = round(tokens_per_frame**0.5)  # the tower's input is square
    drawn = []
    for i, frame in enumerate(frames):
        patches = [token % tokens_per_frame for token in picks if token // tokens_per_frame == i]
        drawn.append(draw_kept(model_view(frame, processor.video_processor), patches, side, side))
    return contact_sheet(drawn)
