"""Answers of a pruned model to many questions, under one setting."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from PIL import Image
from tqdm.auto import tqdm

from divprune_hf.cards.flops import tokens_for_flops
from divprune_hf.evaluation.baselines import BASELINES, Baseline
from divprune_hf.evaluation.questions import Question
from divprune_hf.evaluation.settings import Setting
from divprune_hf.inference.ask import chat_prompt
from divprune_hf.inference.budget import set_budget
from divprune_hf.inference.pictures import read_picture
from divprune_hf.remote_code.configuration_divprune import check_layer_exists
from divprune_hf.remote_code.token_selection import feature_list


SELECTION_INPUTS = ("pixel_values", "image_sizes", "num_image_tokens_kept")
COLUMNS = ("answers", "text_tokens", "visual_tokens", "kept_tokens")


def apply_setting(model: Any, processor: Any, setting: Setting, example: Question | None = None) -> None:
    """Let a loaded model and its processor keep what a setting says.

    Args:
        model: a pruned model.
        processor: its processor.
        setting: what to keep.
        example: a question whose prompt a share of the FLOPs is turned into a share of the visual tokens for.

    Raises:
        ValueError: the model's own code is older than a setting, or it lacks a layer.
    """
    settings = setting.as_settings()
    config = model.config.divprune_config
    if not all(hasattr(config, name) for name in settings):
        raise ValueError("The model's own code is older than these settings: convert the base again.")
    set_budget(model, processor, retention_ratio=1.0)
    ratio = ratio_for_flops(model, processor, setting, example)
    set_budget(model, processor, **setting.as_budget(ratio))
    config = model.config.divprune_config  # a new one
    for name, value in settings.items():
        setattr(config, name, value)
    check_layer_exists(config, model.config.get_text_config())
    processor.divprune_config = config.to_block()
    model.model._install_hooks()


def ratio_for_flops(model: Any, processor: Any, setting: Setting, example: Question | None) -> float:
    """Return the share of the visual tokens that a share of the FLOPs pays for, in the prompt of a question; or 1."""
    if setting.flop_share is None:
        return 1.0
    if example is None:
        raise ValueError(f"Got budget {setting.budget} without a question, expected a share or a number of tokens.")
    prompt = chat_prompt(processor, "image", example.text)
    inputs = processor(images=[read_picture(str(example.image))], text=[prompt], return_tensors="pt")
    (num_available,) = processor.count_image_tokens(inputs)
    num_text_tokens = inputs["input_ids"].shape[1] - num_available
    config = model.config.get_text_config()
    num_kept = tokens_for_flops(config, num_text_tokens, num_available, setting.flop_share, layer=setting.layer)
    return num_kept / num_available


def selection_inputs(inputs: Any) -> dict[str, torch.Tensor]:
    """Return those of a processor's outputs that a selection of image tokens depends on."""
    return {name: inputs[name] for name in SELECTION_INPUTS if name in inputs}


@torch.no_grad()
def generate_answers(
    model: Any,
    processor: Any,
    pictures: Sequence[Image.Image],
    texts: Sequence[str],
    *,
    max_new_tokens: int,
    baseline: Baseline | None = None,
) -> dict[str, list[Any]]:
    """Return greedy answers to questions, each about a picture.

    Args:
        model: a pruned model.
        processor: its processor.
        pictures: a picture for each question.
        texts: the questions.
        max_new_tokens: the longest answer, in tokens.
        baseline: what makes new features of each picture's, at most as many as the budget keeps.

    Returns:
        dict of "answers" (texts), "text_tokens" (of the prompt), "visual_tokens" (before pruning) and "kept_tokens".
    """
    prompts = [chat_prompt(processor, "image", text) for text in texts]
    padding = {"padding": True, "padding_side": "left", "return_tensors": "pt"}
    inputs = processor(images=list(pictures), text=prompts, **padding)
    compressed = None if baseline is None else compressed_features(model, processor, inputs, baseline)
    if compressed is not None and list(map(len, compressed)) != inputs["num_image_tokens_kept"].tolist():
        (num_tokens,) = set(map(len, compressed))  # one placeholder for each; only single views come to fewer
        inputs = processor(images=list(pictures), text=prompts, num_tokens=num_tokens, **padding)
    num_available, num_kept = processor.count_image_tokens(inputs), inputs["num_image_tokens_kept"].tolist()
    placeholders = inputs["input_ids"] == model.config.image_token_id
    text_tokens = (inputs["attention_mask"].sum(1) - placeholders.sum(1)).tolist()
    inputs = inputs.to(model.device, model.dtype)
    if compressed is None:
        output = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
        new_tokens = output[:, inputs["input_ids"].shape[1] :]
    else:
        embeds = model.get_input_embeddings()(inputs["input_ids"])
        embeds[placeholders.to(embeds.device)] = torch.cat(compressed).to(embeds.device, embeds.dtype)
        prompt = {"inputs_embeds": embeds, "attention_mask": inputs["attention_mask"]}
        new_tokens = model.generate(**prompt, max_new_tokens=max_new_tokens, do_sample=False)
    answers = [answer.strip() for answer in processor.tokenizer.batch_decode(new_tokens, skip_special_tokens=True)]
    return dict(zip(COLUMNS, (answers, text_tokens, num_available, num_kept)))


def compressed_features(model: Any, processor: Any, inputs: Any, baseline: Baseline) -> list[torch.Tensor]:
    """Return what a baseline makes of the features of each picture, at most as many as the processor counted for it."""
    counts = {"num_image_tokens_kept": torch.tensor(processor.count_image_tokens(inputs))}
    pixels = {name: inputs[name].to(model.device) for name in ("pixel_values", "image_sizes") if name in inputs}
    pixels["pixel_values"] = pixels["pixel_values"].to(model.dtype)
    outputs = model.model.get_image_features(**pixels, **counts)
    all_features = feature_list(outputs)
    return [
        baseline.compress(features, int(most))
        for features, most in zip(all_features, inputs["num_image_tokens_kept"], strict=True)
    ]


def answer_questions(
    model: Any,
    processor: Any,
    questions: Sequence[Question],
    setting: Setting,
    *,
    batch_size: int,
    max_new_tokens: int,
) -> dict[str, Any]:
    """Ask all questions under a setting, those about one picture one after another.

    Returns:
        dict of the setting and, one entry per question, what `generate_answers` returns.
    """
    apply_setting(model, processor, setting, example=questions[0])
    order = sorted(range(len(questions)), key=lambda index: str(questions[index].image))
    columns: dict[str, list[Any]] = {name: [None] * len(questions) for name in COLUMNS}
    with tqdm(total=len(questions), desc=setting.label, unit="q", leave=False) as progress:
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            files = [str(questions[index].image) for index in batch]
            read = {file: read_picture(file) for file in dict.fromkeys(files)}
            pictures, texts = [read[file] for file in files], [questions[index].text for index in batch]
            answered = generate_answers(
                model,
                processor,
                pictures,
                texts,
                max_new_tokens=max_new_tokens,
                baseline=BASELINES.get(setting.selector),
            )
            for name, values in answered.items():
                for index, value in zip(batch, values, strict=True):
                    columns[name][index] = value
            progress.update(len(batch))
    return {**asdict(setting), **columns}
