"""What loading a variant costs beside loading its base, in time and memory.

    divprune-hf bench loading [--json FILE] [--repeats N] [--shape SHAPE]

Writes a base with random weights (half-billion: 0.5 B parameters in bfloat16), converts it with hard links, and loads
the two in turns, each in a fresh process that has imported divprune_hf; figures are medians. Memory is the highest
resident memory of that process.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from divprune_hf.benchmarks.shapes import LLAMA_TINY, SHAPES, build_models
from divprune_hf.common.machine import write_run
from divprune_hf.publishing.convert import convert_checkpoint


HALF_BILLION = replace(SHAPES["tiny-cpu"], text={**LLAMA_TINY, "num_hidden_layers": 32})
LOAD = """
import sys, time
import divprune_hf, transformers
from transformers import AutoModelForImageTextToText
from divprune_hf.benchmarks.measuring import resident_bytes
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
started = time.perf_counter()
model = AutoModelForImageTextToText.from_pretrained(sys.argv[1], dtype="auto")
print(time.perf_counter() - started, resident_bytes("VmHWM"), sum(p.numel() for p in model.parameters()))
"""


def load(folder):
    """Seconds, bytes and number of parameters of one load, in a process of its own."""
    command = [sys.executable, "-c", LOAD, str(folder)]
    result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parent)
    seconds, peak, parameters = result.stdout.split()
    return float(seconds), int(peak), int(parameters)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", metavar="FILE", help="write the figures here")
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help="loads of each (5)")
    parser.add_argument("--shape", default="half-billion", choices=["half-billion", *SHAPES], help="the model's sizes")
    options = parser.parse_args()
    shape = HALF_BILLION if options.shape == "half-billion" else SHAPES[options.shape]
    with tempfile.TemporaryDirectory() as folder:
        base, variant = Path(folder) / "base", Path(folder) / "variant"
        stock, _ = build_models(shape, torch.device("cpu"), torch.bfloat16)
        stock.save_pretrained(base)
        del stock, _
        convert_checkpoint(base, variant, link=True)
        runs = {"stock": [], "divprune": []}
        for repeat in range(options.repeats + 1):
            for path, source in (("stock", base), ("divprune", variant)):
                measured = load(source)
                if repeat > 0:  # the first round reads the files from disk
                    runs[path].append(measured)
    rows = [
        {
            "path": path,
            "parameters": measured[0][2],
            "seconds": statistics.median(run[0] for run in measured),
            "peak_bytes": statistics.median(run[1] for run in measured),
        }
        for path, measured in runs.items()
    ]
    ratios = {name: rows[1][name] / rows[0][name] for name in ("seconds", "peak_bytes")}
    print("| path | parameters | seconds | peak MB |\n|---|---|---|---|")
    for row in rows:
        print("| {path} | {parameters} | {seconds:.2f} |".format(**row), f"{row['peak_bytes'] / 1e6:.0f} |")
    print("\nvariant over base:", json.dumps({name: round(ratio, 3) for name, ratio in ratios.items()}))
    if options.json:
        write_run(options.json, {"rows": rows, "ratios": ratios})


if __name__ == "__main__":
    main()
