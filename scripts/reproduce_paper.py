"""The commands of lmms-eval for tables 1 and 2 of the paper, and what they measured beside its figures.

    python -m scripts.reproduce_paper --model llava-1.5-7b --tables 1             print the commands
    python -m scripts.reproduce_paper --model llava-1.5-7b --out runs --run       run what has no results, then collect
    python -m scripts.reproduce_paper --out runs --collect                        tables: paper / ours / difference

lmms-eval has to be installed with all that its tasks need, and downloads their data: docs/evaluation.md.
"""

import argparse
import importlib.util
import json
import os
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from divprune_hf.common.markdown import markdown_table
from scripts.paper_tables import DATASETS, LABELS, MODELS, SETTINGS, Dataset, Model


@dataclass(frozen=True)
class Run:
    """One run of lmms-eval: a model at a setting on a dataset."""

    model: str
    setting: str
    dataset: str

    @property
    def model_args(self) -> str:
        """The arguments of the model `divprune_hf`, but for the model itself."""
        dataset = DATASETS[self.dataset]
        return ",".join(filter(None, [SETTINGS[self.setting][dataset.table], dataset.model_args]))

    def folder(self, out: Path) -> Path:
        """Return the folder that lmms-eval writes into."""
        return out / self.model / self.setting / self.dataset

    def command(self, options: argparse.Namespace) -> list[str]:
        """Return the command that measures it."""
        model_args = f"pretrained={options.weights or MODELS[self.model].repo_id},{self.model_args}"
        if options.system_prompt:
            model_args += f",system_prompt={options.system_prompt}"
        words = [sys.executable, "-m", "lmms_eval", "--model", "divprune_hf", "--model_args", model_args]
        words += ["--tasks", ",".join(DATASETS[self.dataset].tasks), "--batch_size", str(options.batch_size)]
        words += ["--output_path", str(self.folder(options.out)), "--log_samples"]
        for flag, value in (
            ("--device", options.device),
            ("--limit", options.limit),
            ("--include_path", options.include_path),
        ):
            words += [] if value is None else [flag, str(value)]
        return words


def planned(models: list[str], tables: list[int], datasets: list[str] | None) -> list[Run]:
    """Return the runs of some models, tables and datasets, those of one model and setting one after another."""
    return [
        Run(model, setting, name)
        for model in models
        if MODELS[model].table in tables
        for setting in SETTINGS
        for name, dataset in DATASETS.items()
        if dataset.table == MODELS[model].table and (datasets is None or name in datasets)
    ]


def stored_results(run: Run, out: Path) -> dict[str, Any] | None:
    """Return the newest results of a run, or None.

    Raises:
        ValueError: its folder holds the results of other settings.
    """
    files = sorted(run.folder(out).glob("**/*_results.json"))
    if not files:
        return None
    results = json.loads(files[-1].read_text(encoding="utf-8"))
    given = results["config"]["model_args"].split(",")
    missing = [argument for argument in run.model_args.split(",") if argument not in given]
    if missing:
        raise ValueError(f"{files[-1]} was measured with {','.join(given)}, expected {','.join(missing)} among them.")
    return results


def figure(dataset: Dataset, results: dict[str, Any]) -> float | None:
    """Return the figure of a dataset, on the paper's scale, or None where lmms-eval could not measure it."""
    values = [results["results"].get(task, {}).get(f"{metric},none") for task, metric in dataset.metrics]
    if any(not isinstance(value, (int, float)) for value in values):
        return None
    return dataset.scale * sum(values) / len(values)


def cell(paper: str, measured: float | None, limit: Any = None) -> str:
    """Return paper / ours / difference, with as many digits as the paper prints."""
    if measured is None:
        return f"{paper} / - / -"
    digits = len(paper.partition(".")[2])
    text = f"{paper} / {measured:.{digits}f} / {measured - float(paper):+.{digits}f}"
    return text if limit is None else f"{text} (limit {limit})"


def table_of(model: Model, name: str, out: Path) -> str:
    """Return the paper's rows of a model with ours, as a Markdown table."""
    datasets = {key: dataset for key, dataset in DATASETS.items() if dataset.table == model.table}
    rows = []
    for setting in SETTINGS:
        paper = model.original if setting == "all" else model.pruned
        row = [LABELS[setting]]
        for key, dataset in datasets.items():
            results = stored_results(Run(name, setting, key), out)
            measured = None if results is None else figure(dataset, results)
            row.append(cell(paper[key], measured, results and results["config"].get("limit")))
        rows.append(row)
    header = [f"{model.title}: paper / ours / difference", *(dataset.title for dataset in datasets.values())]
    return markdown_table(header, rows)


def execute(runs: list[Run], options: argparse.Namespace) -> list[str]:
    """Run what has no results yet; return a line for each failure. lmms-eval exits with 0 also where it failed."""
    failures = []
    environment = {"HF_HOME": str(Path.home() / ".cache" / "huggingface"), **os.environ}  # its video tasks ask for it
    for run in runs:
        if stored_results(run, options.out) is not None:
            continue
        print("$", shlex.join(run.command(options)), flush=True)
        code = subprocess.run(run.command(options), env=environment).returncode
        results = stored_results(run, options.out)
        if code or results is None or figure(DATASETS[run.dataset], results) is None:
            needs = f"; it needs {DATASETS[run.dataset].needs}" if DATASETS[run.dataset].needs else ""
            failures.append(f"{run.model}, {run.setting}, {run.dataset}: no figure (exit code {code}{needs})")
    return failures


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Return the options of the command."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.reproduce_paper",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", nargs="+", choices=MODELS, default=list(MODELS), metavar="M", help=", ".join(MODELS))
    parser.add_argument("--weights", help="a folder or Hub id in place of the model's own")
    parser.add_argument("--tables", nargs="+", type=int, choices=(1, 2), default=[1, 2], help="1: pictures, 2: videos")
    parser.add_argument("--datasets", nargs="+", choices=DATASETS, metavar="D", help=", ".join(DATASETS))
    parser.add_argument("--out", type=Path, default=Path("runs"), metavar="DIR", help="where results lie (runs)")
    parser.add_argument("--batch-size", type=int, default=8, metavar="N", help="questions at a time (8)")
    parser.add_argument("--device", help="such as cpu or cuda:0")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N questions, for a trial")
    parser.add_argument("--include-path", metavar="DIR", help="further tasks of lmms-eval")
    parser.add_argument("--system-prompt", metavar="FILE", help="what the system says in front of each question")
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--run", action="store_true", help="run what has no results yet, then print the tables")
    action.add_argument("--collect", action="store_true", help="print the tables")
    options = parser.parse_args(arguments)
    if options.weights and len(options.model) > 1:
        parser.error("--weights needs one --model, whose rows they stand in")
    if options.run and importlib.util.find_spec("lmms_eval") is None:
        parser.error("--run needs lmms-eval: docs/evaluation.md")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Print commands, or run them, or print tables; return the exit code."""
    options = parse(arguments)
    runs = planned(options.model, options.tables, options.datasets)
    if not runs:
        print("no model and dataset of these tables belong together", file=sys.stderr)
        return 2
    failures = execute(runs, options) if options.run else []
    if options.run or options.collect:
        for name in dict.fromkeys(run.model for run in runs):
            print(table_of(MODELS[name], name, options.out), end="\n\n")
    else:
        for run in runs:
            print(shlex.join(run.command(options)))
    for failure in failures:
        print(failure, file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
