"""One question about one picture."""

from dataclasses import dataclass
from typing import Any

from PIL import Image
from transformers import PreTrainedModel, ProcessorMixin

from divprune_hf.pictures import draw_views


@dataclass(frozen=True)
class Answer:
    """An answer and what it was made from.

    `num_kept` of `num_available` visual tokens went to the language model, in a prompt of `num_prompt_tokens`.
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

    Returns:
        `Answer`, whose `picture` shows the kept patches.
    """
    content: list[Any] = [{"type": "image"}, {"type": "text", "text": question}]
    if processor.chat_template:
        messages: list[Any] = [{"role": "user", "content": content}]
        prompt = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    else:
        prompt = f"USER: {processor.image_token}\n{question} ASSISTANT:"
    inputs = processor(images=[picture], text=[prompt], return_tensors="pt").to(model.device, model.dtype)
    tokens = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
    num_prompt_tokens = inputs["input_ids"].shape[1]
    text = processor.decode(tokens[0, num_prompt_tokens:], skip_special_tokens=True).strip()
    image_inputs = {name: inputs[name] for name in ("pixel_values", "image_sizes") if name in inputs}
    (kept,) = model.select_image_tokens(**image_inputs, num_image_tokens_kept=inputs["num_image_tokens_kept"])
    (num_available,) = processor.count_image_tokens(inputs)
    drawn = draw_views(picture, inputs, processor, kept.tolist())
    return Answer(text, len(kept), num_available, num_prompt_tokens, drawn)
