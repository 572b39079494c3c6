"""Accuracy against budget: DivPrune beside its baselines, on any model and any questions about pictures.

    divprune-hf evaluate model_cards/pocket-llava tests/data/pocket_heldout/questions.jsonl \\
        --budgets 0.098 0.2 1.0 --selectors max_min random uniform --seeds 3 --out evidence

The folder of a run gets results.json (all figures), table.md, accuracy_vs_budget.png (figure 1 of the paper), answers/
(every answer) and run.json (what the answers depend on). The same command again goes on where it was stopped.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from divprune_hf.common.extras import check_plot_packages
from divprune_hf.common.machine import write_run
from divprune_hf.common.whole_file import write_whole
from divprune_hf.evaluation.answers import answer_questions
from divprune_hf.evaluation.questions import Question, read_questions
from divprune_hf.evaluation.report import accuracy_tables, draw_accuracy
from divprune_hf.evaluation.run_folder import check_run, data_fingerprint, model_fingerprint, model_name
from divprune_hf.evaluation.settings import DEFAULT_POSITIONS, Setting, all_settings
from divprune_hf.evaluation.statistics import NUM_DRAWS, evaluate
from divprune_hf.inference.loading import load_pruned
from divprune_hf.remote_code.selectors import SELECTORS


@dataclass(frozen=True)
class AccuracyRun:
    """Options of `divprune-hf evaluate`.

    Args:
        model: a stock base, which is pruned in memory, or a variant; a folder or the id of a Hub repo.
        questions: a JSON lines file, see `questions.py`.
        out: the folder of this run.
        budgets: shares ("0.098", "1.0"), numbers of tokens ("64"), or shares of the language model's FLOPs over an
            unpruned prompt ("60%"), as users write them.
        selectors: names of `SELECTORS`.
        positions: values of the setting `positions`.
        layers: values of the setting `layer`.
        seeds: the number of draws of a selector that draws.
        batch_size: questions at a time.
        max_new_tokens: the longest answer, in tokens.
        device: such as "cpu" or "cuda:0"; by default wherever there is room.
        dtype: a dtype of torch, such as "bfloat16", or "auto" for the checkpoint's.
        revision: branch, tag or commit of a Hub repo.
    """

    model: str
    questions: Path
    out: Path
    budgets: Sequence[str]
    selectors: Sequence[str] = field(default_factory=lambda: list(SELECTORS))
    positions: Sequence[str] = (DEFAULT_POSITIONS,)
    layers: Sequence[int] = (0,)
    seeds: int = 1
    batch_size: int = 24
    max_new_tokens: int = 16
    device: str | None = None
    dtype: str = "auto"
    revision: str | None = None


def measure_accuracy(run: AccuracyRun) -> dict[str, Any]:
    """Ask what is not answered yet, and write the report.

    Returns:
        dict of everything in results.json: the figures of `evaluate`, and what they were measured with.

    Raises:
        ValueError: an option is impossible, `run.out` holds something else, matplotlib is not installed, or the model
            or the questions cannot be read. Nothing is written then.
    """
    check_plot_packages("divprune-hf evaluate", "matplotlib")
    check_counts(run)
    dtype = parse_dtype(run.dtype)
    settings = all_settings(run.selectors, run.budgets, run.seeds, positions=run.positions, layers=run.layers)
    questions = read_questions(run.questions)
    identity = identity_of(run, questions)
    check_run(run.out, identity)
    model, processor = load_pruned(
        run.model, retention_ratio=1.0, device=run.device, revision=run.revision, dtype=dtype
    )
    (run.out / "answers").mkdir(parents=True, exist_ok=True)
    write_whole(run.out / "run.json", json.dumps(identity, indent=1))
    answered = {}
    for setting in settings:
        path = run.out / "answers" / f"{answers_name(setting)}.json"
        if not path.is_file():
            record = answer_questions(
                model,
                processor,
                questions,
                setting,
                batch_size=run.batch_size,
                max_new_tokens=run.max_new_tokens,
            )
            write_whole(path, json.dumps(record))
        answered[setting] = json.loads(path.read_text(encoding="utf-8"))
    figures = {
        **evaluate(questions, answered, model.config.text_config),
        "model": identity["model"],
        "commit": getattr(model.config, "_commit_hash", None),
        "data": {"file": identity["data"], "sha256": identity["data_sha256"]},
        "intervals": f"95 %, paired bootstrap over pictures, {NUM_DRAWS} draws",
    }
    report = write_run(run.out / "results.json", figures, model.device, with_threads=False, indent=1)
    write_whole(run.out / "table.md", accuracy_tables(report))
    draw_accuracy(report, run.out / "accuracy_vs_budget.png")
    return report


def check_counts(run: AccuracyRun) -> None:
    """Raise a `ValueError` for a number below 1."""
    counts = {"--seeds": run.seeds, "--batch-size": run.batch_size, "--max-new-tokens": run.max_new_tokens}
    for flag, count in counts.items():
        if count < 1:
            raise ValueError(f"Got {flag} {count}, expected at least 1.")


def parse_dtype(name: str) -> torch.dtype | str:
    """Return the dtype of torch with a name, or "auto"; a `ValueError` if there is none."""
    dtype = name if name == "auto" else getattr(torch, name, None)
    if dtype != "auto" and not isinstance(dtype, torch.dtype):
        raise ValueError(f"Got --dtype {name}, expected auto or a dtype of torch such as bfloat16.")
    return dtype


def identity_of(run: AccuracyRun, questions: Sequence[Question]) -> dict[str, Any]:
    """Return what the answers of a run depend on, under the names of run.json."""
    return {
        "model": model_name(run.model),
        "model_sha256": model_fingerprint(run.model),
        "revision": run.revision,
        "data": run.questions.name,
        "data_sha256": data_fingerprint(run.questions, questions),
        "budgets": list(run.budgets),
        "selectors": list(run.selectors),
        "positions": list(run.positions),
        "layers": list(run.layers),
        "seeds": run.seeds,
        "max_new_tokens": run.max_new_tokens,
        "dtype": run.dtype,
    }


def answers_name(setting: Setting) -> str:
    """Return the name of a file of answers.

    Where everything is kept nothing is selected: all selectors and seeds share the answers.
    """
    return "all" if setting.keeps_all else f"{setting.method.replace(' ', '-')}-{setting.budget}-{setting.seed}"
