"""Where the time of a model goes: at all visual tokens and at budgets, stock transformers beside ours.

    divprune-hf bench MODEL [--budgets R ...] [--batches B ...] [--new-tokens N] [--repeats N] [--device DEVICE]
        [--threads N] [--json FILE] [--png FILE]

All cells of a batch take turns, in another order in each round, so that other load on the machine hits all alike.
Figures are medians; spreads are the lowest and the highest of the rounds. A ratio is that of two medians, its spread
that of the ratios within each round.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from divprune_hf.benchmarks.model_pair import Pair, pair_of_model, pair_of_shape
from divprune_hf.benchmarks.model_stages import (
    ALL_TOKENS,
    ANSWER,
    DECODE,
    FIRST_TOKEN,
    PREFILL,
    PROJECTOR,
    REST,
    SELECTION,
    STAGES,
    TOWER,
    Cell,
    StageTimes,
)
from divprune_hf.benchmarks.shapes import NUM_TEXT_TOKENS
from divprune_hf.cards.flops import prompt_flops
from divprune_hf.common.markdown import markdown_table
from divprune_hf.remote_code.budget import keep_count


HEADER = ("batch", "model", "kept", *(f"{stage}, ms" for stage in STAGES), "first token, ms", "decode, ms per token")
RATIOS = ("first token: stock over this", "FLOP model", "answer: stock over this")
NO_BUDGET_HELPS = {
    TOWER: "sees the whole picture at every budget",
    PROJECTOR: "sees the whole picture at every budget",
    SELECTION: "looks at all visual tokens at every budget",
    REST: "takes the same at every budget",
}


@dataclass(frozen=True)
class ModelRun:
    """Options of `divprune-hf bench MODEL`.

    Args:
        model: a folder or the id of a Hub repo, or None.
        shape: a key of `SHAPES`, where there is no model.
        batches: numbers of prompts.
        budgets: shares of the visual tokens to keep.
        repeats: rounds.
        new_tokens: tokens of an answer.
        device: where the models run.
    """

    model: str | None
    shape: str | None
    batches: Sequence[int]
    budgets: Sequence[float]
    repeats: int
    new_tokens: int
    device: torch.device


def measure_model(run: ModelRun) -> dict[str, Any]:
    """Measure all batches and budgets; print a table, and for each batch a sentence that says what bounds the gain.

    Returns:
        dict of "model", "rows" (one per batch, path and budget) and "bounds" (one per batch).
    """
    budgets = check_budgets(run.budgets)
    pair = pair_of_shape(run.shape, run.device) if run.shape else pair_of_model(str(run.model), run.device)
    rows = [row for batch in dict.fromkeys(run.batches) for row in measure(run, pair, budgets, batch)]
    print(markdown_table([*HEADER, *RATIOS], map(cells_of, rows), style="tight"))
    bounds = [bound_of([row for row in rows if row["batch"] == batch]) for batch in dict.fromkeys(run.batches)]
    print("", *(bound["sentence"] for bound in bounds), sep="\n")
    return {"model": run.shape or run.model, "new_tokens": run.new_tokens, "rows": rows, "bounds": bounds}


def check_budgets(budgets: Sequence[float]) -> list[float]:
    """Return budgets in ascending order, each once; raise a `ValueError` for one that is not a share below 1."""
    for budget in budgets:
        if not 0 < budget < 1:
            raise ValueError(
                f"Got a budget of {budget}, expected a share above 0 and below 1; all tokens are measured in any case."
            )
    return sorted(set(budgets))


def measure(run: ModelRun, pair: Pair, budgets: Sequence[float], batch: int) -> list[dict[str, Any]]:
    """Return the rows of one batch: the stock model, ours at all tokens, ours at each budget."""
    times = StageTimes(pair, run.new_tokens, run.device)
    ours = [Cell("divprune", budget, batch) for budget in (ALL_TOKENS, *reversed(budgets))]
    cells = [Cell("stock", ALL_TOKENS, batch), *ours]
    inputs = {cell: times.inputs_of(cell) for cell in cells}
    rounds: dict[Cell, list[dict[str, float]]] = {cell: [] for cell in cells}
    with times.clocked():
        for number in range(run.repeats + 1):
            first = number % len(cells)
            for cell in cells[first:] + cells[:first]:
                seconds = times.run(cell, inputs[cell])
                if number > 0:  # the first round pays for set-up
                    rounds[cell].append(seconds)
    return [row_of(pair, cell, rounds[cell], rounds[cells[0]]) for cell in cells]


def row_of(pair: Pair, cell: Cell, seconds: list[dict[str, float]], of_stock: list[dict[str, float]]) -> dict[str, Any]:
    """Return one line of the table, with the ratios to the stock model."""
    num_available = pair.shape.num_available
    num_kept = keep_count(num_available, retention_ratio=cell.budget)
    full, pruned = (
        prompt_flops(pair.stock.config.text_config, NUM_TEXT_TOKENS, num_available, count, layer=pair.layer)
        for count in (num_available, num_kept)
    )
    return {
        "batch": cell.batch,
        "path": cell.path,
        "budget": cell.budget,
        "num_available": num_available,
        "num_kept": num_kept,
        "milliseconds": {
            name: spread([1000 * one[name] for one in seconds])
            for name in (*STAGES, FIRST_TOKEN, DECODE, ANSWER)
            if name in seconds[0]
        },
        "stock_over_this": {name: ratio_of(of_stock, seconds, name) for name in (FIRST_TOKEN, ANSWER)},
        "flop_model_ratio": full / pruned,
    }


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Return the median, the lowest and the highest of some values, and the values."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values), "values": list(values)}


def ratio_of(above: list[dict[str, float]], below: list[dict[str, float]], name: str) -> dict[str, float]:
    """Return the ratio of two medians, and the lowest and highest ratio within a round."""
    ratios = [one[name] / other[name] for one, other in zip(above, below, strict=True)]
    medians = [statistics.median(one[name] for one in rounds) for rounds in (above, below)]
    return {"median": medians[0] / medians[1], "low": min(ratios), "high": max(ratios)}


def cells_of(row: dict[str, Any]) -> list[str]:
    """Return the cells of a row of the table."""
    milliseconds, ratios = row["milliseconds"], row["stock_over_this"]
    first = milliseconds[FIRST_TOKEN]
    return [
        str(row["batch"]),
        "stock" if row["path"] == "stock" else "divprune_hf",
        f"{row['num_kept']} of {row['num_available']}",
        *(f"{milliseconds[stage]['median']:.1f}" for stage in STAGES),
        f"{first['median']:.1f} ({first['low']:.1f} to {first['high']:.1f})",
        f"{milliseconds[DECODE]['median']:.2f}" if DECODE in milliseconds else "",
        f"{ratios[FIRST_TOKEN]['median']:.2f} ({ratios[FIRST_TOKEN]['low']:.2f} to {ratios[FIRST_TOKEN]['high']:.2f})",
        f"{row['flop_model_ratio']:.2f}",
        f"{ratios[ANSWER]['median']:.2f}",
    ]


def bound_of(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return what bounds the gain at the smallest budget of one batch.

    Args:
        rows: those of the batch, the stock model's first.

    Returns:
        dict of "batch", "budget", "stage" (the largest of the pruned prefill), "share" (its part of the prefill),
        "at_most" (the gain if the language model took no time) and "sentence".
    """
    stock, smallest = rows[0], min(rows, key=lambda row: row["num_kept"])
    medians = {name: values["median"] for name, values in smallest["milliseconds"].items()}
    stage = max(STAGES, key=lambda name: medians[name])
    share = medians[stage] / medians[FIRST_TOKEN]
    at_most = stock["milliseconds"][FIRST_TOKEN]["median"] / (medians[FIRST_TOKEN] - medians[PREFILL])
    why = NO_BUDGET_HELPS.get(stage)
    sentence = (
        f"Batch {smallest['batch']}, {smallest['num_kept']} of {smallest['num_available']} tokens kept: "
        f"the {stage.replace('all else', 'rest')} takes {share:.0%} of the pruned prefill"
        + (f" and {why}" if why else ", and a smaller budget shortens it further")
        + f"; the first token comes {smallest['stock_over_this'][FIRST_TOKEN]['median']:.1f} times as fast as the "
        f"stock model's, and at most {at_most:.1f} times if the language model took no time"
    )
    if DECODE in medians:
        decoding = 1 - medians[FIRST_TOKEN] / medians[ANSWER]
        sentence += f"; decoding is {decoding:.0%} of the whole answer"
    return {
        "batch": smallest["batch"],
        "budget": smallest["budget"],
        "stage": stage,
        "share": share,
        "at_most": at_most,
        "sentence": sentence + ".",
    }


def draw_stages(figures: dict[str, Any], file: str | Path) -> None:
    """Draw the stages to the first token as bars on top of each other, in shares of the stock model's first token."""
    from matplotlib.figure import Figure

    rows = figures["rows"]
    stock = {row["batch"]: row["milliseconds"][FIRST_TOKEN]["median"] for row in rows if row["path"] == "stock"}
    figure = Figure(figsize=(2 + 0.9 * len(rows), 4), layout="constrained")
    axes = figure.subplots()
    bottoms = [0.0] * len(rows)
    for stage in STAGES:
        heights = [row["milliseconds"][stage]["median"] / stock[row["batch"]] for row in rows]
        axes.bar(range(len(rows)), heights, bottom=bottoms, label=stage)
        bottoms = [bottom + height for bottom, height in zip(bottoms, heights)]
    names = [f"batch {row['batch']}\n{row['path']}\n{row['num_kept']} tokens" for row in rows]
    axes.set_xticks(range(len(rows)), names, fontsize=8)
    axes.set_ylabel("time to first token, stock model = 1")
    axes.set_title(figures["model"])
    axes.legend()
    figure.savefig(file, dpi=150)
