"""Answers of a pruned model to many questions, under one setting."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from statistics import mean
from typing import Any

import torch
from PIL import Image
from tqdm.auto import tqdm

from divprune_hf.cards.flops import tokens_for_flops
from divprune_hf.evaluation.baselines import BASELINES
from divprune_hf.evaluation.baselines.in_layers import Leaving, leaving
from divprune_hf.evaluation.baselines.picture import Picture
from divprune_hf.evaluation.leaving_plans import plan_of, sizes_of_prompt
from divprune_hf.evaluation.questions import Question
from divprune_hf.evaluation.settings import Setting
from divprune_hf.inference.ask import chat_prompt
from divprune_hf.inference.budget import set_budget
from divprune_hf.inference.pictures import read_picture
from divprune_hf.remote_code.configuration_divprune import check_layer_exists
from divprune_hf.remote_code.token_selection import feature_list


SELECTION_INPUTS = ("pixel_values", "image_sizes", "num_image_tokens_kept")
COLUMNS = ("answers", "text_tokens", "visual_tokens", "kept_tokens")


@dataclass(frozen=True)
class Method:
    """What is done to the visual tokens beside what the model itself does: at most one of two.

    Attributes:
        compress: makes new features of a picture; see `Baseline`.
        plan: lets tokens leave inside the language model.
    """

    compress: Callable[[Picture, int], torch.Tensor] | None = None
    plan: Leaving | None = None


NOTHING_MORE = Method()


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
    set_budget(model, processor, **({"retention_ratio": 1.0} if setting.leaves_inside else setting.as_budget(ratio)))
    config = model.config.divprune_config  # a new one
    for name, value in settings.items():
        setattr(config, name, value)
    check_layer_exists(config, model.config.get_text_config())
    processor.divprune_config = config.to_block()
    model.model._install_hooks()


def ratio_for_flops(model: Any, processor: Any, setting: Setting, example: Question | None) -> float:
    """Return the share of the visual tokens that a share of the FLOPs pays for, in the prompt of a question; or 1."""
    if setting.flop_share is None or setting.leaves_inside:
        return 1.0
    if example is None:
        raise ValueError(f"Got budget {setting.budget} without a question, expected a share or a number of tokens.")
    num_text_tokens, num_available = sizes_of_prompt(processor, example)
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
    method: Method = NOTHING_MORE,
) -> dict[str, list[Any]]:
    """Return greedy answers to questions, each about a picture.

    Args:
        model: a pruned model.
        processor: its processor.
        pictures: a picture for each question.
        texts: the questions.
        max_new_tokens: the longest answer, in tokens.
        method: what is done to the visual tokens beside what the model does.

    Returns:
        dict of "answers" (texts), "text_tokens" (of the prompt), "visual_tokens" (before pruning) and "kept_tokens",
        the mean over layers where tokens leave inside the language model.
    """
    prompts = [chat_prompt(processor, "image", text) for text in texts]
    padding = {"padding": True, "padding_side": "left", "return_tensors": "pt"}
    inputs = processor(images=list(pictures), text=prompts, **padding)
    compressed = None if method.compress is None else compressed_features(model, processor, inputs, method.compress)
    if compressed is not None and list(map(len, compressed)) != inputs["num_image_tokens_kept"].tolist():
        # A placeholder for each. Only pooling comes to fewer than the budget.
        inputs = processor(images=list(pictures), text=prompts, num_tokens=one_number(compressed), **padding)
    num_available, num_kept = processor.count_image_tokens(inputs), inputs["num_image_tokens_kept"].tolist()
    placeholders = inputs["input_ids"] == model.config.image_token_id
    is_text = inputs["attention_mask"].bool() & ~placeholders
    prompt = dict(inputs.to(model.device, model.dtype))
    if compressed is not None:
        embeds = model.get_input_embeddings()(inputs["input_ids"])
        embeds[placeholders.to(embeds.device)] = torch.cat(compressed).to(embeds.device, embeds.dtype)
        prompt = {"inputs_embeds": embeds, "attention_mask": inputs["attention_mask"]}
    inside: AbstractContextManager[None] = nullcontext()
    if method.plan is not None:
        inside = leaving(model.model.language_model, placeholders, is_text, method.plan)
        num_kept = [count * mean(method.plan.shares) for count in num_kept]
    with inside:
        output = model.generate(**prompt, max_new_tokens=max_new_tokens, do_sample=False)
    new_tokens = output[:, prompt["input_ids"].shape[1] if "input_ids" in prompt else 0 :]
    answers = [answer.strip() for answer in processor.tokenizer.batch_decode(new_tokens, skip_special_tokens=True)]
    return dict(zip(COLUMNS, (answers, is_text.sum(1).tolist(), num_available, num_kept)))


def one_number(compressed: Sequence[torch.Tensor]) -> int:
    """Return the number of features that a baseline left of each picture.

    Raises:
        ValueError: it differs.
    """
    numbers = set(map(len, compressed))
    if len(numbers) > 1:
        raise ValueError(f"Got {sorted(numbers)} features of pictures, expected one number: use --batch-size 1.")
    return numbers.pop()


def compressed_features(
    model: Any, processor: Any, inputs: Any, compress: Callable[[Picture, int], torch.Tensor]
) -> list[torch.Tensor]:
    """Return what a baseline makes of the features of each picture, at most as many as the processor counted for it."""
    counts = {"num_image_tokens_kept": torch.tensor(processor.count_image_tokens(inputs))}
    pixels = {name: inputs[name].to(model.device) for name in ("pixel_values", "image_sizes") if name in inputs}
    pixels["pixel_values"] = pixels["pixel_values"].to(model.dtype)
    all_features = feature_list(model.model.get_image_features(**pixels, **counts))
    views = pixels["pixel_values"]
    return [
        compress(Picture(features, model.model, view if view.dim() == 4 else view.unsqueeze(0)), int(most))
        for features, view, most in zip(all_features, views, inputs["num_image_tokens_kept"], strict=True)
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
        dict of the setting and, one entry per question, what `generate_answers` returns; where tokens leave inside the
        language model, also "shares_by_layer".
    """
    apply_setting(model, processor, setting, example=questions[0])
    baseline = BASELINES.get(setting.selector)
    method = NOTHING_MORE
    if baseline is not None and not setting.keeps_all:
        method = Method(baseline.compress, plan_of(model, processor, setting, questions))
    order = sorted(range(len(questions)), key=lambda index: str(questions[index].image))
    columns: dict[str, list[Any]] = {name: [None] * len(questions) for name in COLUMNS}
    with tqdm(total=len(questions), desc=setting.label, unit="q", leave=False) as progress:
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            files = [str(questions[index].image) for index in batch]
            read = {file: read_picture(file) for file in dict.fromkeys(files)}
            pictures, texts = [read[file] for file in files], [questions[index].text for index in batch]
            answered = generate_answers(model, processor, pictures, texts, max_new_tokens=max_new_tokens, method=method)
            for name, values in answered.items():
                for index, value in zip(batch, values, strict=True):
                    columns[name][index] = value
            progress.update(len(batch))
    by_layer = {} if method.plan is None else {"shares_by_layer": list(method.plan.shares)}
    return {**asdict(setting), **columns, **by_layer}
