"""One question about one picture or one video."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from transformers import BatchFeature, PreTrainedModel, ProcessorMixin

from divprune_hf.pictures import draw_views
from divprune_hf.videos import draw_frames


@dataclass(frozen=True)
class Answer:
    """An answer and what it was made from.

    `num_kept` of `num_available` visual tokens went to the language model, in a prompt of `num_prompt_tokens`.
    `picture` shows the kept patches.
    """

    text: str
    num_kept: int
    num_available: int
    num_prompt_tokens: int
    picture: Image.Image


def ask(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    picture: Image.Image,
    question: str,
    max_new_tokens: int = 64,
) -> Answer:
    """Ask a pruned model a question about a picture, in its chat format.

    Args:
        model, processor: as `load_pruned` returns them.
        picture (`PIL.Image.Image`).
        question (`str`).
        max_new_tokens (`int`): the longest answer.
    """
    prompt = chat_prompt(processor, "image", question)
    inputs = processor(images=[picture], text=[prompt], return_tensors="pt").to(model.device, model.dtype)
    image_inputs = {name: inputs[name] for name in ("pixel_values", "image_sizes") if name in inputs}
    (kept,) = model.select_image_tokens(**image_inputs, num_image_tokens_kept=inputs["num_image_tokens_kept"])
    drawn = draw_views(picture, inputs, processor, kept.tolist())
    return answer(model, processor, inputs, max_new_tokens, len(kept), processor.count_image_tokens(inputs)[0], drawn)


def ask_about_video(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    frames: np.ndarray,
    question: str,
    max_new_tokens: int = 64,
) -> Answer:
    """Ask a pruned LLaVA-NeXT-Video a question about a video, in its chat format.

    Args:
        model, processor: as `load_pruned` returns them.
        frames (`np.ndarray` of shape `(num_frames, height, width, 3)`): as `read_video` returns them.
        question (`str`).
        max_new_tokens (`int`): the longest answer.

    Raises:
        ValueError: the model takes no videos.
    """
    if not getattr(processor, "takes_videos", False):
        raise ValueError(f"Got a video for {type(model).__name__}, which takes pictures only: use LLaVA-NeXT-Video.")
    prompt = chat_prompt(processor, "video", question)
    inputs = processor(videos=[frames], text=[prompt], return_tensors="pt").to(model.device, model.dtype)
    video_inputs = {name: inputs[name] for name in ("pixel_values_videos", "num_video_tokens_kept")}
    (kept,) = model.select_video_tokens(**video_inputs)
    drawn = draw_frames(inputs, processor, kept.tolist())
    return answer(model, processor, inputs, max_new_tokens, len(kept), processor.count_video_tokens(inputs)[0], drawn)


def chat_prompt(processor: ProcessorMixin, modality: str, question: str) -> str:
    """A question about an image or a video in the model's chat format, or in LLaVA's first one where it has none."""
    if not processor.chat_template:
        return f"USER: {getattr(processor, f'{modality}_token')}\n{question} ASSISTANT:"
    content: list[Any] = [{"type": modality}, {"type": "text", "text": question}]
    messages: list[Any] = [{"role": "user", "content": content}]
    return processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)


def answer(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    inputs: BatchFeature,
    max_new_tokens: int,
    num_kept: int,
    num_available: int,
    drawn: Image.Image,
) -> Answer:
    """What the model says to a finished prompt."""
    tokens = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
    num_prompt_tokens = inputs["input_ids"].shape[1]
    text = processor.decode(tokens[0, num_prompt_tokens:], skip_special_tokens=True).strip()
    return Answer(text, num_kept, num_available, num_prompt_tokens, drawn)
