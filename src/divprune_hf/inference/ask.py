"""One question about one picture or one video."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from transformers import BatchFeature, PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin

from divprune_hf.inference.pictures import draw_views
from divprune_hf.inference.videos import draw_frames


LONGEST_ANSWER = 2**31 - 1


@dataclass(frozen=True)
class Prompt:
    """A prompt about one picture or video, ready for the model.

    Attributes:
        inputs: what the processor returned, on the model's device.
        picks: indices of the kept visual tokens.
        radius: the largest cosine distance of a dropped token to its nearest kept one; None where a deeper layer drops
            tokens.
        num_available: the number of visual tokens before pruning.
        picture: a drawing of the kept patches.
    """

    inputs: BatchFeature
    picks: list[int]
    radius: float | None
    num_available: int
    picture: Image.Image


@dataclass(frozen=True)
class Answer:
    """An answer and the sizes of its prompt.

    Attributes:
        text: the answer.
        num_kept: the number of visual tokens that the language model saw.
        num_available: the number of visual tokens before pruning.
        num_prompt_tokens: the length of the prompt, text and kept visual tokens together.
        picture: a drawing of the kept patches.
        radius: the largest cosine distance of a dropped token to its nearest kept one, from 0 to 2; None where a deeper
            layer drops tokens.
    """

    text: str
    num_kept: int
    num_available: int
    num_prompt_tokens: int
    picture: Image.Image
    radius: float | None = None


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
    return answer(model, processor, picture_prompt(model, processor, picture, question), max_new_tokens)


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
    return answer(model, processor, video_prompt(model, processor, frames, question), max_new_tokens)


def picture_prompt(model: Any, processor: Any, picture: Image.Image, question: str) -> Prompt:
    """Return the prompt of a question about a picture."""
    text = chat_prompt(processor, "image", question)
    inputs = processor(images=[picture], text=[text], return_tensors="pt").to(model.device, model.dtype)
    picks, radius = picks_of(model, inputs, "image")
    (num_available,) = processor.count_image_tokens(inputs)
    return Prompt(inputs, picks, radius, num_available, draw_views(picture, inputs, processor, picks))


def video_prompt(model: Any, processor: Any, frames: np.ndarray, question: str) -> Prompt:
    """Return the prompt of a question about a video; raise a `ValueError` if the model takes no videos."""
    check_takes_videos(processor.takes_videos, type(model).__name__)
    text = chat_prompt(processor, "video", question)
    inputs = processor(videos=[frames], text=[text], return_tensors="pt").to(model.device, model.dtype)
    picks, radius = picks_of(model, inputs, "video")
    (num_available,) = processor.count_video_tokens(inputs)
    return Prompt(inputs, picks, radius, num_available, draw_frames(inputs, processor, picks))


def picks_of(model: Any, inputs: Any, modality: Literal["image", "video"]) -> tuple[list[int], float | None]:
    """Return which visual tokens of a prompt's only picture or video a model keeps, and their covering radius."""
    if getattr(model.config.divprune_config, "layer", 0):
        token_id = model.config.image_token_id if modality == "image" else model.config.video_token_id
        (slots,) = model.select_prompt_tokens(**inputs)
        placeholders = (inputs["input_ids"][0] == token_id).nonzero()[:, 0]
        return torch.isin(placeholders, slots).nonzero()[:, 0].tolist(), None
    if modality == "image":
        names = ["pixel_values", "image_sizes", "num_image_tokens_kept"]
        select = model.select_image_tokens
    else:
        names = ["pixel_values_videos", "num_video_tokens_kept"]
        select = model.select_video_tokens
    (picks,), radius = select(**{name: inputs[name] for name in names if name in inputs}, return_radius=True)
    return picks.tolist(), float(radius)


def check_max_new_tokens(max_new_tokens: int) -> None:
    """Raise a `ValueError` unless the longest answer has from 1 to `LONGEST_ANSWER` tokens."""
    if not 1 <= max_new_tokens <= LONGEST_ANSWER:
        raise ValueError(f"Got max_new_tokens={max_new_tokens}, expected a number from 1 to {LONGEST_ANSWER}.")


def check_takes_videos(takes_videos: bool, model: str) -> None:
    """Raise a `ValueError` if a model takes no videos; `model` is its name in the message."""
    if not takes_videos:
        raise ValueError(f"Got a video for {model}, which takes pictures only: use LLaVA-NeXT-Video.")


def chat_prompt(processor: Any, modality: Literal["image", "video"], question: str) -> str:
    """Return a question about an image or a video in the model's chat format, or in LLaVA-1.5's if it has none.

    The prompt has exactly one placeholder; placeholders in the question are made plain text (`as_plain_text`).
    """
    question = as_plain_text(question, special_tokens(processor.tokenizer))
    return in_chat_format(processor, [modality], question)


def in_chat_format(processor: Any, media: Sequence[str], text: str, system: str | None = None) -> str:
    """Return a text in the model's chat format, or in LLaVA-1.5's if it has none.

    Args:
        processor: the processor.
        media: "image" or "video" for each placeholder in front of the text.
        text: what the user says, as it is.
        system: what the system says.
    """
    if not processor.chat_template:
        tokens = [processor.video_token if modality == "video" else processor.image_token for modality in media]
        lead = " ".join(tokens) + "\n" if tokens else ""
        return f"{system} USER: {lead}{text} ASSISTANT:" if system else f"USER: {lead}{text} ASSISTANT:"
    content = [{"type": modality} for modality in media] + [{"type": "text", "text": text}]
    messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
    if system:
        messages.insert(0, {"role": "system", "content": [{"type": "text", "text": system}]})
    return processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)


def special_tokens(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return all texts that a tokenizer reads as one special token, such as `<image>` and `</s>`."""
    added = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    return sorted({*tokenizer.all_special_tokens, *added})


def as_plain_text(question: str, special: list[str]) -> str:
    """Return a question in which special tokens are plain text, with a space after their first character.

    `What does <image> mean?` becomes `What does < image> mean?`. Otherwise the processor would take `<image>` for the
    place of a second picture, and the model would take `</s>` for the end of the prompt. No release of transformers
    escapes all of them.
    """
    for token in special:
        if len(token) > 1:
            question = question.replace(token, f"{token[0]} {token[1:]}")
    return question


def answer(model: Any, processor: Any, prompt: Prompt, max_new_tokens: int) -> Answer:
    """Return the model's answer to a prompt, generated greedily."""
    tokens = model.generate(**prompt.inputs, max_new_tokens=max_new_tokens, do_sample=False)
    num_prompt_tokens = prompt.inputs["input_ids"].shape[1]
    text = processor.decode(tokens[0, num_prompt_tokens:], skip_special_tokens=True).strip()
    return Answer(text, len(prompt.picks), prompt.num_available, num_prompt_tokens, prompt.picture, prompt.radius)
