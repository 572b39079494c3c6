"""Time to first token, throughput and memory: stock transformers, divprune_hf, and an oracle, in one run.

    divprune-hf bench generation --shape tiny-cpu [--json FILE] [--png FILE] [--repeats N] [--batches B ...]
        [--budgets R ...] [--new-tokens N] [--device cpu|cuda] [--compiled] [--threads N]

The weights are random (pocket's are trained) and of true shape: times are measured, not answers. The oracle is our
model that is handed the picks; tower, projector and everything else are the same, and only the selection is free. The
three take turns within each repeat, so that other load on the machine hits all alike. Figures are medians. Prefill is
the time of `generate` from images as tensors to the first new token, throughput that of the tokens after it. Memory is
the peak that one `generate` adds.
"""

import contextlib
import json
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import CompileConfig, PretrainedConfig, StoppingCriteria, StoppingCriteriaList

from divprune_hf.benchmarks.measuring import dtype_on, peak_memory, synchronize
from divprune_hf.benchmarks.models import build_inputs, build_models
from divprune_hf.benchmarks.shapes import NUM_TEXT_TOKENS, SHAPES, Shape
from divprune_hf.cards.flops import prompt_flops
from divprune_hf.common.markdown import markdown_row, markdown_table
from divprune_hf.remote_code.budget import keep_count


PATHS = ("stock", "divprune", "oracle")
COLUMNS = ("shape", "batch", "budget", "path", "prefill_ms", "tokens_per_second", "peak_bytes", "kv_bytes")
IMAGE_INPUTS = ("pixel_values", "image_sizes", "num_image_tokens_kept")
VIDEO_INPUTS = ("pixel_values_videos", "num_video_tokens_kept")
ROUNDED = ("prefill_ms", "tokens_per_second")


@dataclass(frozen=True)
class GenerationRun:
    """Options of `divprune-hf bench generation`.

    Args:
        shape: a key of `SHAPES`.
        batches: numbers of prompts.
        budgets: shares of the visual tokens to keep.
        repeats: runs of each path.
        new_tokens: tokens to generate, at least 2.
        device: where the models run.
        compiled: use a static cache, with which decoding is compiled.
    """

    shape: str
    batches: Sequence[int]
    budgets: Sequence[float]
    repeats: int
    new_tokens: int
    device: torch.device
    compiled: bool = False


class FirstToken(StoppingCriteria):
    """A criterion that stops nothing and notes the time of its first call, when the first new token is there."""

    def __init__(self) -> None:
        self.time: float | None = None

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        if self.time is None:
            synchronize(input_ids.device)
            self.time = time.perf_counter()
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


class Comparison:
    """The three paths on prompts with the same images.

    Args:
        run: the options.
        models: the stock model and ours.
        batch: the number of prompts.
        budget: the share of visual tokens to keep.
    """

    def __init__(self, run: GenerationRun, models: tuple[Any, Any], batch: int, budget: float) -> None:
        self.run, (self.stock, self.ours) = run, models
        shape, place = SHAPES[run.shape], (run.device, dtype_on(run.device))
        pruned = build_inputs(shape, self.ours.config, batch, budget, *place)
        full = build_inputs(shape, self.stock.config, batch, None, *place)
        self.inputs = {"stock": full, "divprune": pruned, "oracle": pruned}
        self.picks = picks_of(self.ours, pruned)
        self.settings = generation_settings(run)

    def generate(self, path: str, num_new_tokens: int, first_token: FirstToken) -> Any:
        """Generate exactly so many tokens on a path."""
        model = self.stock if path == "stock" else self.ours
        with handed(self.ours, self.picks) if path == "oracle" else contextlib.nullcontext():
            return model.generate(
                **self.inputs[path],
                **self.settings,
                max_new_tokens=num_new_tokens,
                min_new_tokens=num_new_tokens,
                stopping_criteria=StoppingCriteriaList([first_token]),
            )

    def seconds_of(self, path: str) -> tuple[float, float]:
        """Return the seconds to the first token, and from there to the last."""
        synchronize(self.run.device)
        first_token, started = FirstToken(), time.perf_counter()
        self.generate(path, self.run.new_tokens, first_token)
        synchronize(self.run.device)
        ended = time.perf_counter()
        assert first_token.time is not None  # `generate` asks its criteria after each token
        return first_token.time - started, ended - first_token.time

    def medians(self) -> dict[str, tuple[float, float]]:
        """Return the median of both times of each path, which take turns."""
        seconds: dict[str, list[tuple[float, float]]] = {path: [] for path in PATHS}
        for repeat in range(self.run.repeats + 1):
            # In another order each time: the second in line finds warmer caches.
            for path in PATHS[repeat % 3 :] + PATHS[: repeat % 3]:
                measured = self.seconds_of(path)
                if repeat > 0:  # the first round pays for set-up and compilation
                    seconds[path].append(measured)
        return {
            path: (statistics.median(first for first, _ in runs), statistics.median(others for _, others in runs))
            for path, runs in seconds.items()
        }

    def memory_of(self, path: str) -> tuple[int, int]:
        """Return the peak memory of one `generate`, and the size of the keys and values that it leaves, in bytes."""
        peak, output = peak_memory(lambda: self.generate(path, 1, FirstToken()), self.run.device)
        cache = output["cache" if "cache" in output else "past_key_values"]
        return peak, sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)


@contextlib.contextmanager
def handed(model: Any, picks: list[torch.Tensor]) -> Iterator[None]:
    """Let a model keep these indices of each image instead of selecting: the oracle."""
    model.model._select = lambda *arguments: picks
    try:
        yield
    finally:
        del model.model._select


def picks_of(model: Any, inputs: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    """Return the indices that a model keeps of each image or video."""
    is_video = "pixel_values_videos" in inputs
    select = model.select_video_tokens if is_video else model.select_image_tokens
    names = VIDEO_INPUTS if is_video else IMAGE_INPUTS
    return select(**{name: inputs[name] for name in names if name in inputs})


def generation_settings(run: GenerationRun) -> dict[str, Any]:
    """Return the arguments of `generate` that all paths share."""
    settings: dict[str, Any] = {"do_sample": False, "return_dict_in_generate": True, "pad_token_id": 0}
    if run.compiled:
        settings["cache_implementation"] = "static"  # on a GPU that is enough
        if run.device.type == "cpu":
            settings["compile_config"] = CompileConfig(mode="default")
            settings["compile_config"]._compile_all_devices = True
    return settings


def measure_generation(run: GenerationRun) -> dict[str, Any]:
    """Measure all batches and budgets, and print a line of a Markdown table for each result, then the ratios.

    Returns:
        dict of "rows" (one per batch, budget and path) and "ratios" (by batch and budget).
    """
    shape = SHAPES[run.shape]
    models = build_models(shape, run.device, dtype_on(run.device))
    rows: list[dict[str, Any]] = []
    ratios = {}
    print(markdown_table(COLUMNS, style="tight"))
    for budget in sorted(run.budgets):  # transformers makes a static cache no shorter than the one before
        for batch in run.batches:
            with torch.no_grad():
                three = measure(run, models, batch, budget)
            for row in three:
                cells = [f"{row[name]:.1f}" if name in ROUNDED else row[name] for name in COLUMNS]
                print(markdown_row(cells), flush=True)
            ratios[f"batch {batch}, budget {budget}"] = ratios_of(three, shape, models[0].config.text_config)
            rows += three
    print()
    for name, values in ratios.items():
        print(f"{name}: {json.dumps({key: round(value, 3) for key, value in values.items()})}")
    return {"rows": rows, "ratios": ratios}


def measure(run: GenerationRun, models: tuple[Any, Any], batch: int, budget: float) -> list[dict[str, Any]]:
    """Return three rows for one batch and budget: stock, ours and the oracle."""
    comparison = Comparison(run, models, batch, budget)
    rows = []
    for path, (first, others) in comparison.medians().items():
        peak_bytes, kv_bytes = comparison.memory_of(path)
        rows.append(
            {
                "shape": run.shape,
                "batch": batch,
                "budget": budget,
                "path": path,
                "prefill_ms": 1000 * first,
                "tokens_per_second": batch * (run.new_tokens - 1) / others,
                "peak_bytes": peak_bytes,
                "kv_bytes": kv_bytes,
                "decoding": "compiled" if run.compiled else "eager",
            }
        )
    return rows


def ratios_of(rows: Sequence[dict[str, Any]], shape: Shape, text_config: PretrainedConfig) -> dict[str, float]:
    """Return the ratios between the three rows of one batch and budget, and those that the paper's FLOP model gives."""
    stock, ours, oracle = rows
    num_kept = keep_count(shape.num_available, retention_ratio=ours["budget"])
    full, pruned = (
        prompt_flops(text_config, NUM_TEXT_TOKENS, shape.num_available, count) for count in (None, num_kept)
    )
    return {
        "prefill_over_oracle": ours["prefill_ms"] / oracle["prefill_ms"],
        "prefill_over_stock": ours["prefill_ms"] / stock["prefill_ms"],
        "stock_prefill_over_ours": stock["prefill_ms"] / ours["prefill_ms"],
        "tokens_per_second_over_stock": ours["tokens_per_second"] / stock["tokens_per_second"],
        "kv_bytes_over_stock": ours["kv_bytes"] / stock["kv_bytes"],
        "prompt_tokens_over_stock": (num_kept + NUM_TEXT_TOKENS) / (shape.num_available + NUM_TEXT_TOKENS),
        "llm_flops_over_stock": pruned / full,
    }


def draw_generation(rows: Sequence[dict[str, Any]], file: str | Path) -> None:
    """Draw bars of the time to first token, by batch and budget."""
    from matplotlib.figure import Figure

    groups = sorted({(row["batch"], row["budget"]) for row in rows})
    milliseconds = {(row["batch"], row["budget"], row["path"]): row["prefill_ms"] for row in rows}
    figure = Figure(figsize=(1.5 + 1.2 * len(groups), 3.5), layout="constrained")
    axes = figure.subplots()
    for number, path in enumerate(PATHS):
        places = [group + 0.27 * (number - 1) for group in range(len(groups))]
        axes.bar(places, [milliseconds[(*group, path)] for group in groups], width=0.25, label=path)
    axes.set_xticks(range(len(groups)), [f"batch {batch}\n{budget:.1%}" for batch, budget in groups])
    axes.set_ylabel("time to first token, ms")
    axes.set_title(rows[0]["shape"])
    axes.legend()
    figure.savefig(file, dpi=150)
