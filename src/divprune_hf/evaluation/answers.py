"""Answers of a pruned model to many questions, under one selector, budget and seed."""

from dataclasses import asdict, dataclass
from itertools import groupby

import torch
from tqdm.auto import tqdm

from divprune_hf.evaluation.questions import Question
from divprune_hf.inference.ask import chat_prompt
from divprune_hf.inference.budget import set_budget
from divprune_hf.inference.pictures import read_picture
from divprune_hf.remote_code.configuration_divprune import DivPruneConfig
from divprune_hf.remote_code.token_selection import feature_list


@dataclass(frozen=True)
class Setting:
    """A budget, a share of the visual tokens (float) or a number (int), and a selector, with its seed if it has one."""

    selector: str
    budget: float | int
    seed: int | None = None

    def __post_init__(self):
        DivPruneConfig(**self.as_budget(), selector=self.selector, seed=self.seed or 0)  # refuses what is impossible

    def as_budget(self) -> dict:
        name = "num_tokens" if isinstance(self.budget, int) else "retention_ratio"
        return {name: self.budget}

    @property
    def keeps_all(self) -> bool:
        return isinstance(self.budget, float) and self.budget == 1


def apply_setting(model, processor, setting: Setting) -> None:
    """Let a loaded model and its processor keep what `setting` says."""
    config = model.config.divprune_config
    if not hasattr(config, "selector"):
        raise ValueError("The model's own code is older than the baselines: convert the base again.")
    set_budget(model, processor, **setting.as_budget())
    config = model.config.divprune_config
    config.selector, config.seed = setting.selector, setting.seed or 0


@torch.no_grad()
def kept_features(model, processor, pictures: list) -> tuple[list[torch.Tensor], list[int]]:
    """The features that the model keeps of each picture, (K, width), and how many visual tokens each had."""
    inputs = processor(images=pictures, text=[processor.image_token] * len(pictures), padding=True, return_tensors="pt")
    available = processor.count_image_tokens(inputs)
    inputs = inputs.to(model.device, model.dtype)
    names = ("pixel_values", "image_sizes", "num_image_tokens_kept")
    outputs = model.model.get_image_features(**{name: inputs[name] for name in names if name in inputs})
    return feature_list(outputs), available


@torch.no_grad()
def generate_answers(model, processor, features: list[torch.Tensor], texts: list[str], max_new_tokens: int):
    """Greedy answers to one question per entry of `features`, and the number of text tokens of each prompt."""
    prompts = [
        chat_prompt(processor, "image", text).replace(processor.image_token, processor.image_token * len(kept))
        for text, kept in zip(texts, features)
    ]
    inputs = processor.tokenizer(prompts, padding=True, padding_side="left", return_tensors="pt").to(model.device)
    embeds = model.get_input_embeddings()(inputs["input_ids"])
    placeholders = inputs["input_ids"] == model.config.image_token_id
    embeds[placeholders] = torch.cat(features).to(embeds.device, embeds.dtype)
    attention_mask = inputs["attention_mask"]
    output = model.generate(
        inputs_embeds=embeds, attention_mask=attention_mask, max_new_tokens=max_new_tokens, do_sample=False
    )
    answers = [answer.strip() for answer in processor.tokenizer.batch_decode(output, skip_special_tokens=True)]
    return answers, (attention_mask.sum(1) - placeholders.sum(1)).tolist()


def answer_questions(
    model, processor, questions: list[Question], setting: Setting, batch_size: int, max_new_tokens: int
) -> dict:
    """Ask all questions under a setting. Each picture is encoded once, whatever is asked about it.

    Returns:
        dict of the setting and, one entry per question: "answers" (texts), "text_tokens" (of the prompt),
        "visual_tokens" (before pruning) and "kept_tokens".
    """
    apply_setting(model, processor, setting)
    order = sorted(range(len(questions)), key=lambda index: str(questions[index].image))
    groups = [list(group) for _, group in groupby(order, key=lambda index: questions[index].image)]
    columns = {name: [None] * len(questions) for name in ("answers", "text_tokens", "visual_tokens", "kept_tokens")}
    label = f"{setting.selector} {setting.budget}" + ("" if setting.seed is None else f" seed {setting.seed}")
    with tqdm(total=len(questions), desc=label, unit="q", leave=False) as progress:
        for batch in batches_of(groups, batch_size):
            pictures = [read_picture(questions[group[0]].image) for group in batch]
            features, available = kept_features(model, processor, pictures)
            asked = [(index, number) for number, group in enumerate(batch) for index in group]
            for start in range(0, len(asked), batch_size):
                part = asked[start : start + batch_size]
                texts = [questions[index].text for index, _ in part]
                kept = [features[number] for _, number in part]
                answers, text_tokens = generate_answers(model, processor, kept, texts, max_new_tokens)
                for (index, number), answer, length in zip(part, answers, text_tokens):
                    row = answer, length, available[number], len(features[number])
                    for column, value in zip(columns.values(), row):
                        column[index] = value
                progress.update(len(part))
    return {**asdict(setting), **columns}


def batches_of(groups: list[list[int]], batch_size: int):
    """Pictures in batches: as many as ask for `batch_size` questions together, at least one."""
    batch: list[list[int]] = []
    for group in groups:
        if batch and sum(map(len, batch)) + len(group) > batch_size:
            yield batch
            batch = []
        batch.append(group)
    if batch:
        yield batch
