"""Answers of a pruned model to many questions, under one setting."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import groupby
from typing import Any

import torch
from PIL import Image
from tqdm.auto import tqdm

from divprune_hf.evaluation.questions import Question
from divprune_hf.evaluation.settings import Setting
from divprune_hf.inference.ask import chat_prompt
from divprune_hf.inference.budget import set_budget
from divprune_hf.inference.pictures import read_picture
from divprune_hf.remote_code.token_selection import feature_list


SELECTION_INPUTS = ("pixel_values", "image_sizes", "num_image_tokens_kept")
COLUMNS = ("answers", "text_tokens", "visual_tokens", "kept_tokens")


def apply_setting(model: Any, processor: Any, setting: Setting) -> None:
    """Let a loaded model and its processor keep what a setting says.

    Raises:
        ValueError: the model's own code is older than the selectors.
    """
    if not hasattr(model.config.divprune_config, "selector"):
        raise ValueError("The model's own code is older than the baselines: convert the base again.")
    set_budget(model, processor, **setting.as_budget())
    config = model.config.divprune_config  # a new one
    config.selector, config.seed = setting.selector, setting.seed or 0


def selection_inputs(inputs: Any) -> dict[str, torch.Tensor]:
    """Return those of a processor's outputs that a selection of image tokens depends on."""
    return {name: inputs[name] for name in SELECTION_INPUTS if name in inputs}


@torch.no_grad()
def kept_features(model: Any, processor: Any, pictures: Sequence[Image.Image]) -> tuple[list[torch.Tensor], list[int]]:
    """Return the features that the model keeps of each picture, `(K, width)`, and each picture's visual tokens, M."""
    inputs = processor(images=pictures, text=[processor.image_token] * len(pictures), padding=True, return_tensors="pt")
    num_available = processor.count_image_tokens(inputs)
    inputs = inputs.to(model.device, model.dtype)
    return feature_list(model.model.get_image_features(**selection_inputs(inputs))), num_available


@torch.no_grad()
def generate_answers(
    model: Any,
    processor: Any,
    features: Sequence[torch.Tensor],
    texts: Sequence[str],
    *,
    max_new_tokens: int,
) -> tuple[list[str], list[int]]:
    """Return greedy answers from features that were kept before.

    Args:
        model: a pruned model.
        processor: its processor.
        features: the kept features of a picture for each question, `(K, width)`.
        texts: the questions.
        max_new_tokens: the longest answer, in tokens.

    Returns:
        The answer to each question, and the number of text tokens of its prompt.
    """
    prompts = [
        chat_prompt(processor, "image", text).replace(processor.image_token, processor.image_token * len(kept))
        for text, kept in zip(texts, features)
    ]
    inputs = processor.tokenizer(prompts, padding=True, padding_side="left", return_tensors="pt").to(model.device)
    embeds = model.get_input_embeddings()(inputs["input_ids"])
    placeholders = inputs["input_ids"] == model.config.image_token_id
    embeds[placeholders] = torch.cat(list(features)).to(embeds.device, embeds.dtype)
    attention_mask = inputs["attention_mask"]
    output = model.generate(
        inputs_embeds=embeds, attention_mask=attention_mask, max_new_tokens=max_new_tokens, do_sample=False
    )
    answers = [answer.strip() for answer in processor.tokenizer.batch_decode(output, skip_special_tokens=True)]
    return answers, (attention_mask.sum(1) - placeholders.sum(1)).tolist()


def answer_questions(
    model: Any,
    processor: Any,
    questions: Sequence[Question],
    setting: Setting,
    *,
    batch_size: int,
    max_new_tokens: int,
) -> dict[str, Any]:
    """Ask all questions under a setting. Each picture is encoded once for all its questions.

    Returns:
        dict of the setting and, one entry per question: "answers" (texts), "text_tokens" (of the prompt),
        "visual_tokens" (before pruning) and "kept_tokens".
    """
    apply_setting(model, processor, setting)
    order = sorted(range(len(questions)), key=lambda index: str(questions[index].image))
    groups = [list(group) for _, group in groupby(order, key=lambda index: questions[index].image)]
    columns: dict[str, list[Any]] = {name: [None] * len(questions) for name in COLUMNS}
    with tqdm(total=len(questions), desc=setting.label, unit="q", leave=False) as progress:
        for batch in batches_of(groups, batch_size):
            pictures = [read_picture(str(questions[group[0]].image)) for group in batch]
            features, num_available = kept_features(model, processor, pictures)
            asked = [(index, number) for number, group in enumerate(batch) for index in group]
            for start in range(0, len(asked), batch_size):
                part = asked[start : start + batch_size]
                texts = [questions[index].text for index, _ in part]
                kept = [features[number] for _, number in part]
                answers, text_tokens = generate_answers(model, processor, kept, texts, max_new_tokens=max_new_tokens)
                for (index, number), answer, length in zip(part, answers, text_tokens):
                    row = answer, length, num_available[number], len(features[number])
                    for column, value in zip(columns.values(), row):
                        column[index] = value
                progress.update(len(part))
    return {**asdict(setting), **columns}


def batches_of(groups: Sequence[list[int]], batch_size: int) -> Iterator[list[list[int]]]:
    """Yield pictures in batches: as many as `batch_size` questions are about, at least one.

    Args:
        groups: for each picture, the numbers of its questions.
        batch_size: questions at a time.
    """
    batch: list[list[int]] = []
    for group in groups:
        if batch and sum(map(len, batch)) + len(group) > batch_size:
            yield batch
            batch = []
        batch.append(group)
    if batch:
        yield batch
