"""A prefill that `torch.compile` has compiled as a whole, beside the same one without: stock, and ours.

    divprune-hf bench prefill --compiled --shape pocket [--json FILE] [--repeats N] [--batches B ...] [--budget R]

The prefill is one `forward`, from images as tensors to the logits of the last token: vision tower, selection and
language model. The four take turns. Figures are medians. A graph break is a place where Python has to take over; it is
named by what torch gives as its reason and by the file that it is in.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from divprune_hf.benchmarks.measuring import dtype_on, medians
from divprune_hf.benchmarks.models import build_inputs, build_models
from divprune_hf.benchmarks.prefill import PrefillRun
from divprune_hf.benchmarks.shapes import SHAPES
from divprune_hf.common.markdown import markdown_table


HEADER = ("shape", "batch", "path", "eager, ms", "compiled, ms", "graph breaks")
WARM_UP = 4  # calls before the clock runs: later calls may compile again, for shapes that turn out to vary


def measure_compiled_prefill(run: PrefillRun) -> dict[str, Any]:
    """Measure all batches, and print the figures as a Markdown table, then what breaks the graphs.

    Returns:
        dict of "rows": "milliseconds" and "compiled_milliseconds" by "batch" and "path" ("stock" or "divprune"), with
        "num_graph_breaks" and "graph_breaks", their places and reasons.
    """
    models = dict(zip(("stock", "divprune"), build_models(SHAPES[run.shape], run.device, dtype_on(run.device))))
    with torch.no_grad():
        rows = [row for batch in run.batches for row in measure(run, models, batch)]
    lines = [
        [
            *(row[name] for name in ("shape", "batch", "path")),
            *(f"{row[name]:.2f}" for name in ("milliseconds", "compiled_milliseconds")),
            row["num_graph_breaks"],
        ]
        for row in rows
    ]
    print(markdown_table(HEADER, lines, style="tight"))
    for path in models:
        places = next(row["graph_breaks"] for row in rows if row["path"] == path)
        print(f"\n{path} breaks in", *places, sep="\n  ")
    return {"rows": rows}


def measure(run: PrefillRun, models: dict[str, Any], batch: int) -> list[dict[str, Any]]:
    """Return a row for the stock model and one for ours, for one batch."""
    torch.compiler.reset()
    calls: dict[tuple[str, str], Callable[[], Any]] = {}
    broken = {}
    for path, model in models.items():
        budget = None if path == "stock" else run.budget
        inputs = build_inputs(SHAPES[run.shape], model.config, batch, budget, run.device, dtype_on(run.device))
        broken[path] = graph_breaks(model, inputs)
        calls[path, "milliseconds"] = partial(model, **inputs, logits_to_keep=1)
        calls[path, "compiled_milliseconds"] = partial(torch.compile(model), **inputs, logits_to_keep=1)
    times = medians(calls, run.repeats, run.device, warm_up=WARM_UP)
    return [
        {
            "shape": run.shape,
            "batch": batch,
            "path": path,
            **{kind: times[path, kind] for kind in ("milliseconds", "compiled_milliseconds")},
            **broken[path],
        }
        for path in models
    ]


def graph_breaks(model: Any, inputs: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Return how often the graph of a forward breaks, and the places that torch names: "file, function: reason"."""
    explained = torch._dynamo.explain(model)(**inputs, logits_to_keep=1)
    places: dict[str, None] = {}
    for broken in explained.break_reasons:
        if broken.user_stack:
            innermost = broken.user_stack[-1]
            reason = broken.reason.splitlines()[0]
            places[f"{Path(innermost.filename).name}, {innermost.name}: {reason}"] = None
    return {"num_graph_breaks": explained.graph_break_count, "graph_breaks": list(places)}
