"""The plan of a baseline whose tokens leave inside the language model: what a budget means for it, and its examples."""

from collections.abc import Sequence
from typing import Any

import torch

from divprune_hf.cards.flops import flops_by_layer, prompt_flops
from divprune_hf.evaluation.baselines import BASELINES
from divprune_hf.evaluation.baselines.fitprune import attention_received, share_lost
from divprune_hf.evaluation.baselines.in_layers import Leaving, leaving
from divprune_hf.evaluation.baselines.schedules import Schedule
from divprune_hf.evaluation.questions import Question
from divprune_hf.evaluation.settings import Setting
from divprune_hf.inference.ask import chat_prompt
from divprune_hf.inference.pictures import read_picture


NUM_EXAMPLES = 32


def plan_of(model: Any, processor: Any, setting: Setting, questions: Sequence[Question]) -> Leaving | None:
    """Return when tokens leave under a setting; None for a method whose tokens do not leave inside.

    A share of the visual tokens is the mean over layers. A share of the FLOPs is that of the first question's prompt.

    Raises:
        ValueError: the budget is less than the method can do with, or a number of tokens.
    """
    plan = BASELINES[setting.selector].plan
    if plan is None:
        return None
    if isinstance(setting.budget, int):
        raise ValueError(
            f"Got {setting.budget} tokens for {setting.selector}, which keeps another number in each layer, expected a "
            "share such as 0.5, the mean over layers, or a share of the FLOPs such as 60%."
        )
    config = model.config.get_text_config()
    num_text_tokens, num_available = sizes_of_prompt(processor, questions[0])

    def share_of_flops(shares: Sequence[float]) -> float:
        seen = [round(share * num_available) for share in shares]
        return flops_by_layer(config, num_text_tokens, seen) / prompt_flops(config, num_text_tokens, num_available)

    def share_of_tokens(shares: Sequence[float]) -> float:
        return sum(shares) / len(shares)

    schedule = Schedule(
        num_layers=config.num_hidden_layers,
        num_available=num_available,
        layer=setting.layer,
        cost=share_of_tokens if setting.flop_share is None else share_of_flops,
        budget=float(setting.budget) if setting.flop_share is None else setting.flop_share,
        lost=lambda: attention_lost(model, processor, questions),
    )
    return plan(schedule)


def prompt_about(processor: Any, question: Question) -> Any:
    """Return a processor's output for one question."""
    prompt = chat_prompt(processor, "image", question.text)
    return processor(images=[read_picture(str(question.image))], text=[prompt], return_tensors="pt")


def sizes_of_prompt(processor: Any, question: Question) -> tuple[int, int]:
    """Return the text tokens and the visual tokens (M) of a question's prompt, while everything is kept."""
    inputs = prompt_about(processor, question)
    (num_available,) = processor.count_image_tokens(inputs)
    return inputs["input_ids"].shape[1] - num_available, num_available


@torch.no_grad()
def attention_lost(model: Any, processor: Any, questions: Sequence[Question]) -> torch.Tensor:
    """Return what FitPrune measures: of each layer, `share_lost` averaged over examples.

    The examples are `NUM_EXAMPLES` of the questions themselves, spread evenly: a calibration on the test set, in favour
    of the method.
    """
    step = max(1, len(questions) // NUM_EXAMPLES)
    num_layers = model.config.get_text_config().num_hidden_layers
    curves = []
    for question in questions[::step][:NUM_EXAMPLES]:
        inputs = prompt_about(processor, question).to(model.device, model.dtype)
        is_visual = inputs["input_ids"] == model.config.image_token_id
        found: list[torch.Tensor] = []

        def look(weights: torch.Tensor, visible: torch.Tensor, is_text: torch.Tensor, into: Any = found) -> Any:
            received = attention_received(weights, visible, is_text)
            into.append(share_lost(*(values[0, visible[0]] for values in received)))
            return torch.ones_like(received[0])

        # Shares that fall by so little that no token leaves: every layer's attention is looked at.
        falling = [1 - layer * 1e-9 for layer in range(num_layers + 1)]
        with leaving(model.model.language_model, is_visual, ~is_visual, Leaving(falling, look)):
            model(**inputs)
        curves.append(torch.stack(found).cpu())
    return torch.stack(curves).mean(0)
