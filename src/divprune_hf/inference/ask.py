"""One question about one picture or one video."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from transformers import BatchFeature, PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin

from divprune_hf.inference.pictures import draw_views
from divprune_hf.inference.videos import draw_frames


LONGEST_ANSWER = 2**31 - 1


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
        picture (`PIL.Image.Image`): the picture.
        question (`str`): the question, without a placeholder.
        max_new_tokens (`int`): the longest answer, in tokens.

    Raises:
        ValueError: an impossible `max_new_tokens`.
    """
    check_max_new_tokens(max_new_tokens)
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
        question (`str`): the question, without a placeholder.
        max_new_tokens (`int`): the longest answer, in tokens.

    Raises:
        ValueError: the model takes no videos, or an impossible `max_new_tokens`.
    """
    check_max_new_tokens(max_new_tokens)
    check_takes_videos(getattr(processor, "takes_videos", False), type(model).__name__)
    prompt = chat_prompt(processor, "video", question)
    inputs = processor(videos=[frames], text=[prompt], return_tensors="pt").to(model.device, model.dtype)
    video_inputs = {name: inputs[name] for name in ("pixel_values_videos", "num_video_tokens_kept")}
    (kept,) = model.select_video_tokens(**video_inputs)
    drawn = draw_frames(inputs, processor, kept.tolist())
    return answer(model, processor, inputs, max_new_tokens, len(kept), processor.count_video_tokens(inputs)[0], drawn)


def check_max_new_tokens(max_new_tokens: int) -> None:
    """Raise a `ValueError` unless an answer can have so many tokens."""
    if not 1 <= max_new_tokens <= LONGEST_ANSWER:
        raise ValueError(f"Got max_new_tokens={max_new_tokens}, expected a number from 1 to {LONGEST_ANSWER}.")


def check_takes_videos(takes_videos: bool, model: str) -> None:
    """Raise a `ValueError` if a model, named as the user knows it, takes no videos."""
    if not takes_videos:
        raise ValueError(f"Got a video for {model}, which takes pictures only: use LLaVA-NeXT-Video.")


def chat_prompt(processor: ProcessorMixin, modality: str, question: str) -> str:
    """A question about an image or a video in the model's chat format, or in LLaVA's first one where it has none.

    The one placeholder is that of the image or video: see `as_plain_text`.
    """
    question = as_plain_text(question, special_tokens(processor.tokenizer))
    if not processor.chat_template:
        return f"USER: {getattr(processor, f'{modality}_token')}\n{question} ASSISTANT:"
    content: list[Any] = [{"type": modality}, {"type": "text", "text": question}]
    messages: list[Any] = [{"role": "user", "content": content}]
    return processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)


def special_tokens(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """All texts that a tokenizer reads as one special token, such as `<image>` and `</s>`."""
    added = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    return sorted({*tokenizer.all_special_tokens, *added})


def as_plain_text(question: str, special: list[str]) -> str:
    """A question in which special tokens are text: a space behind their first character keeps them apart.

    `What does <image> mean?` becomes `What does < image> mean?`. Otherwise the processor would take it for the place of
    a second picture, and the model `</s>` for the end of the prompt; no release of transformers escapes them all.
    """
    for token in special:
        if len(token) > 1:
            question = question.replace(token, f"{token[0]} {token[1:]}")
    return question


def answer(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    inputs: BatchFeature,
    max_new_tokens: int,
    num_kept: int,
    num_available: int,
    drawn: Image.Image,
) -> Answer:
    """Return what the model says to a finished prompt."""
    tokens = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
    num_prompt_tokens = inputs["input_ids"].shape[1]
    text = processor.decode(tokens[0, num_prompt_tokens:], skip_special_tokens=True).strip()
    return Answer(text, num_kept, num_available, num_prompt_tokens, drawn)
