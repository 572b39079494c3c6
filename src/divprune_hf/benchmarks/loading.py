"""The time and memory of loading a variant, beside those of loading its base.

    divprune-hf bench loading [--json FILE] [--repeats N] [--shape SHAPE]

A base with random weights (half-billion: 0.5 B parameters in bfloat16) is written and converted with hard links. The
two are loaded in turns, each in a fresh process that has imported divprune_hf. Figures are medians. Memory is the
highest resident memory of the process.
"""

import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForImageTextToText

from divprune_hf.benchmarks.measuring import highest_bytes
from divprune_hf.benchmarks.models import build_models
from divprune_hf.benchmarks.shapes import LOADING_SHAPES
from divprune_hf.common.markdown import markdown_table
from divprune_hf.common.own_process import run_python
from divprune_hf.publishing.convert import convert_checkpoint
from divprune_hf.registration import register_auto_classes


ALONE = "import sys; from divprune_hf.benchmarks.loading import load_alone; load_alone(sys.argv[1])"


def measure_loading(shape: str, repeats: int) -> dict[str, Any]:
    """Measure both, and print the figures as a Markdown table.

    Args:
        shape: a key of `LOADING_SHAPES`.
        repeats: loads of each.

    Returns:
        dict of "rows" (base and variant) and "ratios" (variant over base).
    """
    with tempfile.TemporaryDirectory() as folder:
        base, variant = Path(folder) / "base", Path(folder) / "variant"
        write_base(shape, base)
        convert_checkpoint(base, variant, link=True)
        runs: dict[str, list[dict[str, Any]]] = {"stock": [], "divprune": []}
        for repeat in range(repeats + 1):
            for path, source in (("stock", base), ("divprune", variant)):
                measured = load_in_own_process(source)
                if repeat > 0:  # the first round reads the files from disk
                    runs[path].append(measured)
    rows = [
        {
            "path": path,
            "parameters": measured[0]["parameters"],
            "seconds": statistics.median(run["seconds"] for run in measured),
            "peak_bytes": statistics.median(run["peak_bytes"] for run in measured),
        }
        for path, measured in runs.items()
    ]
    ratios = {name: rows[1][name] / rows[0][name] for name in ("seconds", "peak_bytes")}
    lines = [
        [row["path"], row["parameters"], f"{row['seconds']:.2f}", f"{row['peak_bytes'] / 1e6:.0f}"] for row in rows
    ]
    print(markdown_table(["path", "parameters", "seconds", "peak MB"], lines, style="tight"))
    print("\nvariant over base:", json.dumps({name: round(ratio, 3) for name, ratio in ratios.items()}))
    return {"rows": rows, "ratios": ratios}


def write_base(shape: str, folder: Path) -> None:
    """Write a stock checkpoint in bfloat16; nothing of it stays in memory."""
    stock, _ = build_models(LOADING_SHAPES[shape], torch.device("cpu"), torch.bfloat16)
    stock.save_pretrained(folder)


def load_in_own_process(folder: Path) -> dict[str, Any]:
    """Return what `load_alone` prints, from a process of its own."""
    printed = run_python(["-c", ALONE, str(folder)], "the process that loads the model", folder.parent)
    return json.loads(printed.splitlines()[-1])


def load_alone(folder: str) -> None:
    """Load a checkpoint in this process; print its seconds, peak bytes and number of parameters as JSON."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    register_auto_classes()
    started = time.perf_counter()
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype="auto")
    seconds = time.perf_counter() - started
    parameters = sum(weight.numel() for weight in model.parameters())
    peak = highest_bytes(torch.device("cpu"))
    print(json.dumps({"seconds": seconds, "peak_bytes": peak, "parameters": parameters}))
