"""The time of one answer by its stages: vision tower, projector, selection, LLM prefill, decode.

Times are taken inside `generate`. On a GPU the clock waits for the device at both ends of each stage, so that stages
which would overlap do not. Where a variant prunes at a deeper layer, it selects inside the language model, and that
time is part of the LLM prefill.
"""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from transformers import StoppingCriteriaList

from divprune_hf.benchmarks.generation import FirstToken
from divprune_hf.benchmarks.measuring import synchronize
from divprune_hf.benchmarks.model_pair import Pair
from divprune_hf.benchmarks.models import build_inputs
from divprune_hf.benchmarks.prefill import Clock
from divprune_hf.remote_code.budget import keep_count
from divprune_hf.remote_code.prompt_counts import MODALITIES


TOWER, PROJECTOR, SELECTION, PREFILL, REST = "vision tower", "projector", "selection", "LLM prefill", "all else"
STAGES = (TOWER, PROJECTOR, SELECTION, PREFILL, REST)  # they add up to FIRST_TOKEN
FIRST_TOKEN, DECODE, ANSWER = "first token", "decode, per token", "whole answer"
MODULES = {TOWER: "vision_tower", PROJECTOR: "multi_modal_projector", PREFILL: "language_model"}
ALL_TOKENS = 1.0


@dataclass(frozen=True)
class Cell:
    """One line of the table.

    Args:
        path: "stock" or "divprune".
        budget: the share of visual tokens that is kept.
        batch: the number of prompts.
    """

    path: str
    budget: float
    batch: int


class StagesToFirstToken(FirstToken):
    """A criterion that also notes what a clock has counted up to the first new token."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = clock
        self.seconds: dict[str, float] = {}

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        is_first = self.time is None
        going_on = super().__call__(input_ids, scores, **kwargs)
        if is_first:
            self.seconds = self.clock.take()
        return going_on


class StageTimes:
    """Runs cells of a pair of models, and returns the seconds of each stage.

    Args:
        pair: the models.
        new_tokens: tokens of an answer.
        device: where the models are.
    """

    def __init__(self, pair: Pair, new_tokens: int, device: torch.device) -> None:
        self.pair, self.new_tokens, self.device = pair, new_tokens, device
        self.clock = Clock(device)

    @contextlib.contextmanager
    def clocked(self) -> Iterator[None]:
        """Let the clock run along in both models."""
        with contextlib.ExitStack() as stack:
            for model in (self.pair.stock.model, self.pair.ours.model):
                for stage, name in MODULES.items():
                    module = getattr(model, name)
                    timed = self.clock.timed(stage, module.forward)
                    stack.enter_context(mock.patch.object(module, "forward", timed))
            inner = self.pair.ours.model
            stack.enter_context(mock.patch.object(inner, "_select", self.clock.timed(SELECTION, inner._select)))
            yield

    def inputs_of(self, cell: Cell) -> dict[str, torch.Tensor]:
        """Return the prompts of a cell; pictures and texts are the same in all cells of a batch."""
        model = self.pair.stock if cell.path == "stock" else self.pair.ours
        budget = None if cell.path == "stock" else cell.budget if self.pair.layer == 0 else ALL_TOKENS
        inputs = build_inputs(self.pair.shape, model.config, cell.batch, budget, self.device, model.dtype)
        for modality in (
            MODALITIES if self.pair.layer else ()
        ):  # all placeholders, and as many tokens as the budget keeps
            if modality.counts in inputs:
                num_kept = keep_count(self.pair.shape.num_available, retention_ratio=cell.budget)
                inputs[modality.counts] = torch.full_like(inputs[modality.counts], num_kept)
        return inputs

    @torch.no_grad()
    def run(self, cell: Cell, inputs: dict[str, torch.Tensor]) -> dict[str, float]:
        """Answer once; return the seconds of each stage, of the first token, of a decoded token and of the answer."""
        model = self.pair.stock if cell.path == "stock" else self.pair.ours
        first_token = StagesToFirstToken(self.clock)
        synchronize(self.device)
        self.clock.take()
        started = time.perf_counter()
        model.generate(
            **inputs,
            do_sample=False,
            pad_token_id=0,
            max_new_tokens=self.new_tokens,
            min_new_tokens=self.new_tokens,
            stopping_criteria=StoppingCriteriaList([first_token]),
        )
        synchronize(self.device)
        ended = time.perf_counter()
        assert first_token.time is not None  # `generate` asks its criteria after each token
        first = first_token.time - started
        stages = {stage: first_token.seconds.get(stage, 0.0) for stage in STAGES[:-1]}
        seconds = {**stages, REST: first - sum(stages.values()), FIRST_TOKEN: first, ANSWER: ended - started}
        if self.new_tokens > 1:
            seconds[DECODE] = (ended - first_token.time) / (self.new_tokens - 1)
        return seconds
