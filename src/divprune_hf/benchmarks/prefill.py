"""The time of a pruned prefill by its parts: vision tower, projector, the parts of the selection, language model.

    divprune-hf bench prefill --shape pocket [--json FILE] [--repeats N] [--batches B ...] [--budget R]
        [--device cpu|cuda] [--threads N] [--compiled]

Times are medians, taken inside `generate` up to the first new token. There a selection finds the caches as the vision
tower left them; "selection by itself" is the same selection, called in a loop. "Least" is what the arithmetic of a
part would take at the speed of one big matrix product on the same device; `least.py` says more. On a GPU the clock
waits for the device at the beginning and the end of each part, so that parts which would overlap do not.
"""

import contextlib
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest import mock

import torch

from divprune_hf.benchmarks.least import least_seconds
from divprune_hf.benchmarks.measuring import dtype_on, synchronize
from divprune_hf.benchmarks.models import build_inputs, build_models
from divprune_hf.benchmarks.shapes import SHAPES
from divprune_hf.common.markdown import markdown_table
from divprune_hf.remote_code import fast_distances, max_min_fast


MODULES = {"vision tower": "vision_tower", "projector": "multi_modal_projector", "language model": "language_model"}
# The functions that are timed, and the modules that look them up.
FUNCTIONS = {
    "selection": (max_min_fast, "select_diverse_tokens_of_images"),
    "distances": (max_min_fast, "cosine_distances"),
    "products": (fast_distances, "gram_matrices"),
    "picks": (max_min_fast, "pick_greedily"),
    "picks with Triton": (max_min_fast, "pick_with_triton"),
}


@dataclass(frozen=True)
class PrefillRun:
    """Options of `divprune-hf bench prefill`.

    Args:
        shape: a key of `SHAPES`.
        batches: numbers of prompts.
        budget: the share of visual tokens to keep.
        repeats: prefills of each batch.
        device: where the model runs.
    """

    shape: str
    batches: Sequence[int]
    budget: float
    repeats: int
    device: torch.device


class Clock:
    """Seconds by name, from one `take` to the next."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = defaultdict(float)

    def now(self) -> float:
        """Return the time when the device has done everything so far, in seconds."""
        synchronize(self.device)
        return time.perf_counter()

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function whose calls add to the seconds of a name."""

        def call(*args: Any, **kwargs: Any) -> Any:
            started = self.now()
            result = function(*args, **kwargs)
            self.seconds[name] += self.now() - started
            return result

        return call

    def take(self) -> dict[str, float]:
        """Return the seconds by name, and begin anew."""
        seconds, self.seconds = self.seconds, defaultdict(float)
        return seconds


def measure_prefill(run: PrefillRun) -> dict[str, Any]:
    """Measure all batches, and print the parts as a Markdown table.

    Returns:
        dict of "rows": "milliseconds" by "batch" and "part", and "least_milliseconds" of the parts that have a least.
    """
    _, model = build_models(SHAPES[run.shape], run.device, dtype_on(run.device))
    with torch.no_grad():
        rows = [
            {"shape": run.shape, "batch": batch, "budget": run.budget, "part": part, **milliseconds}
            for batch in run.batches
            for part, milliseconds in measure(run, model, batch).items()
        ]
    lines = [
        [
            *(row[name] for name in ("shape", "batch", "budget", "part")),
            f"{row['milliseconds']:.2f}",
            f"{row['least_milliseconds']:.2f}" if "least_milliseconds" in row else "",
        ]
        for row in rows
    ]
    print(markdown_table(["shape", "batch", "budget", "part", "ms", "least, ms"], lines, style="tight"))
    return {"rows": rows}


def measure(run: PrefillRun, model: Any, batch: int) -> dict[str, dict[str, float]]:
    """Return the median and the least milliseconds of each part, for one batch."""
    inputs = build_inputs(SHAPES[run.shape], model.config, batch, run.budget, run.device, dtype_on(run.device))
    clock = Clock(run.device)
    runs: dict[str, list[float]] = defaultdict(list)
    selected: list[Any] = []

    def keep_arguments(*arguments: Any) -> Any:
        selected[:] = arguments
        return select(*arguments)

    select = max_min_fast.select_diverse_tokens_of_images
    modules = {name: getattr(model.model, attribute) for name, attribute in MODULES.items()}
    once = partial(model.generate, **inputs, do_sample=False, max_new_tokens=1, pad_token_id=0)
    generate = clock.timed("prefill", once)
    with contextlib.ExitStack() as stack:
        for name, module in modules.items():
            stack.enter_context(mock.patch.object(module, "forward", clock.timed(name, module.forward)))
        for name, (place, function) in FUNCTIONS.items():
            called = keep_arguments if name == "selection" else getattr(place, function)
            stack.enter_context(mock.patch.object(place, function, clock.timed(name, called)))
        for repeat in range(run.repeats + 1):
            clock.take()
            generate()
            for name, seconds in parts_of(clock.take()).items() if repeat > 0 else ():  # the first pays for set-up
                runs[name].append(seconds)
    alone = clock.timed("alone", select)
    for _ in range(run.repeats):
        alone(*selected)
        runs["selection by itself"].append(clock.take()["alone"])
    least = least_seconds(modules, once, *selected[:2])
    return {
        name: {"milliseconds": 1000 * statistics.median(seconds)}
        | ({"least_milliseconds": 1000 * least[name]} if name in least else {})
        for name, seconds in runs.items()
    }


def parts_of(seconds: Mapping[str, float]) -> dict[str, float]:
    """Return the seconds of a clock as parts that add up to the whole, and the whole as "prefill"."""
    picks = seconds["picks"] + seconds["picks with Triton"]
    towers = {name: seconds[name] for name in MODULES}
    selection = {
        "selection: products": seconds["products"],
        "selection: products to distances": seconds["distances"] - seconds["products"],
        "selection: picks": picks,
        "selection: checks and sorting": seconds["selection"] - seconds["distances"] - picks,
    }
    rest = seconds["prefill"] - sum(towers.values()) - seconds["selection"]
    return {**towers, **selection, "all else": rest, "prefill": seconds["prefill"]}
