"""Everything that needs a GPU, in stages of minutes: the tests that are skipped without one, and the benchmarks.

    python scripts/gpu_run_book.py [--out FOLDER] [--stages NAME ...] [--list]
    python scripts/performance_tables.py    # the figures into docs/performance.md

Each stage is a process with a time limit. It writes FOLDER/NAME.json when it ends, so whoever has a card for half an
hour keeps what was done; a stage whose file is there is left out, and FOLDER/NAME.log tells about one that failed. In
the end the figures stand beside their targets. Nothing is written where torch finds no GPU.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from divprune_hf.common.machine import write_run
from divprune_hf.common.markdown import markdown_table


ROOT = Path(__file__).parents[1]
BENCH = ("-m", "divprune_hf.cli", "bench")
OUT = ROOT / "docs" / "performance" / "gpu"
ONE_BUDGET = ("--budgets", "0.098")


@dataclass(frozen=True)
class Stage:
    """A job of at most nine minutes.

    Args:
        name: of its files.
        arguments: what follows `python`; a benchmark gets `--json` besides.
        seconds: its limit.
        needs: a module without which it is left out.
    """

    name: str
    arguments: tuple[str, ...]
    seconds: int
    needs: str = "torch"

    @property
    def is_benchmark(self) -> bool:
        """True for a stage that writes its figures itself."""
        return self.arguments[:3] == BENCH


def generation(shape: str, *batches: str, repeats: int = 9) -> tuple[str, ...]:
    """Return the arguments of a comparison with the stock model and the oracle."""
    return (*BENCH, "generation", "--shape", shape, "--batches", *batches, "--repeats", str(repeats), *ONE_BUDGET)


# In the order of what is missed most where time runs out.
STAGES = (
    Stage("tests", ("-m", "pytest", "-q", "-n", "0", "-m", "gpu", "-rs", "tests"), 480),
    Stage("selection", (*BENCH, "selection", "--repeats", "41"), 480),
    Stage("llava-1.5-7b", generation("llava-1.5-7b", "1", "8"), 480),
    Stage("llava-1.6-7b", generation("llava-1.6-7b", "1", "8"), 480),
    Stage("prefill", (*BENCH, "prefill", "--shape", "llava-1.5-7b", "--batches", "1", "8"), 300),
    Stage("llava-1.5-13b", generation("llava-1.5-13b", "1", "8"), 480),
    Stage("llava-next-video-7b", generation("llava-next-video-7b", "1", "8"), 480),
    Stage("compiled", (*generation("llava-1.5-7b", "1", "8"), "--compiled"), 480),
    Stage("compiled-prefill", (*BENCH, "prefill", "--shape", "llava-1.5-7b", "--batches", "1", "--compiled"), 480),
    Stage("preprocessing", (*BENCH, "preprocessing", "--shape", "llava-1.5-7b"), 240),
    Stage("vllm", ("-m", "pytest", "-q", "-n", "0", "-rs", "tests/engines"), 530, needs="vllm"),
)


@dataclass(frozen=True)
class Target:
    """A figure that must not be above its target; or below it, where more is better.

    Args:
        what: the figure in words.
        stage: the stage that measures it.
        figure: takes it out of the stage's JSON.
        target: the limit.
        more_is_better: the limit is a least.
    """

    what: str
    stage: str
    figure: Callable[[dict[str, Any]], float]
    target: float
    more_is_better: bool = False

    def is_met(self, figure: float) -> bool:
        """Tell whether a figure is on the right side of the target."""
        return figure >= self.target if self.more_is_better else figure <= self.target


def selection_ms(tokens: int, path: str = "triton") -> Callable[[dict[str, Any]], float]:
    """Return a function that takes the milliseconds of one image's selection out of a run."""

    def figure(run: dict[str, Any]) -> float:
        return next(
            row["milliseconds"]
            for row in run["rows"]
            if (row["tokens"], row["batch"], row["path"]) == (tokens, 1, path)
        )

    return figure


def ratio(batch: int, name: str) -> Callable[[dict[str, Any]], float]:
    """Return a function that takes a ratio at 9.8 % out of a comparison."""
    return lambda run: run["ratios"][f"batch {batch}, budget 0.098"][name]


TARGETS = (
    Target("tests that failed", "tests", lambda run: run["exit_code"], 0),
    Target("selection of 576/56, ms", "selection", selection_ms(576), 0.10),
    Target("selection of 2880/282, ms", "selection", selection_ms(2880), 0.6),
    Target("selection of 18432/1843, ms", "selection", selection_ms(18432), 60),
    Target("LLaVA-1.5-7B, prefill over the oracle's", "llava-1.5-7b", ratio(1, "prefill_over_oracle"), 1.03),
    Target("the same, batch 8", "llava-1.5-7b", ratio(8, "prefill_over_oracle"), 1.03),
    Target(
        "LLaVA-1.6-7B, batch 8, stock's prefill over ours",
        "llava-1.6-7b",
        ratio(8, "stock_prefill_over_ours"),
        3.5,
        more_is_better=True,
    ),
)


def run_stage(stage: Stage, out: Path, extra: tuple[str, ...]) -> int:
    """Run a stage; return its exit code, 124 where its time was over. Its JSON is there if it ended well."""
    file, log = out / f"{stage.name}.json", out / f"{stage.name}.log"
    command = [sys.executable, *stage.arguments, *(("--json", str(file), *extra) if stage.is_benchmark else ())]
    started = time.monotonic()
    with log.open("w") as printed:
        try:
            code = subprocess.run(
                command, cwd=ROOT, stdout=printed, stderr=subprocess.STDOUT, timeout=stage.seconds
            ).returncode
        except subprocess.TimeoutExpired:
            code = 124
    seconds = time.monotonic() - started
    if code == 0 and not stage.is_benchmark:
        last = log.read_text(errors="replace").splitlines()[-1:]
        device = "cuda" if torch.cuda.is_available() else "cpu"
        write_run(file, {"exit_code": code, "summary": last, "seconds": seconds}, device)
    print(f"{stage.name}: {'done' if code == 0 else f'exit code {code}, see {log}'} ({seconds:.0f} s)", flush=True)
    return code


def targets_table(out: Path) -> str:
    """Return the figures that are there beside their targets, as a Markdown table."""
    lines = []
    for target in TARGETS:
        file = out / f"{target.stage}.json"
        if not file.is_file():
            lines.append([target.what, "", f"{target.target:g}", "not measured"])
            continue
        try:
            figure = target.figure(json.loads(file.read_text(encoding="utf-8")))
        except (KeyError, StopIteration):  # no Triton there, or another shape
            lines.append([target.what, "", f"{target.target:g}", f"not in {file.name}"])
            continue
        met = "met" if target.is_met(figure) else "missed"
        lines.append([target.what, f"{figure:.3g}", f"{target.target:g}", met])
    return markdown_table(["figure", "measured", "target", ""], lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=OUT, help="folder of the figures (docs/performance/gpu)")
    names = [stage.name for stage in STAGES]
    parser.add_argument("--stages", nargs="+", choices=names, default=names, metavar="NAME", help="run these alone")
    parser.add_argument("--list", action="store_true", help="print the stages, their limits and commands")
    parser.add_argument("--on-cpu", action="store_true", help="try the run book itself without a GPU: slow, no targets")
    options = parser.parse_args()
    chosen = [stage for stage in STAGES if stage.name in options.stages]
    if options.list:
        lines = [[stage.name, f"{stage.seconds} s", "python " + " ".join(stage.arguments)] for stage in chosen]
        print(markdown_table(["stage", "at most", "command"], lines))
        return
    if not (torch.cuda.is_available() or options.on_cpu):
        sys.exit("make gpu needs a CUDA GPU: torch finds none here. Nothing was run.")
    options.out.mkdir(parents=True, exist_ok=True)
    codes = []
    for stage in chosen:
        if (options.out / f"{stage.name}.json").is_file():
            print(f"{stage.name}: there already")
        elif find_spec(stage.needs) is None:
            print(f"{stage.name}: left out, {stage.needs} is not installed")
        else:
            codes.append(run_stage(stage, options.out, ("--device", "cpu") if options.on_cpu else ()))
    print(targets_table(options.out))
    sys.exit(int(any(codes)))


if __name__ == "__main__":
    main()
