"""Accuracy against budget: DivPrune beside its baselines, on any model and any questions about pictures.

    divprune-hf evaluate model_cards/pocket-llava tests/data/pocket_heldout/questions.jsonl \\
        --budgets 0.098 0.2 1.0 --selectors max_min random uniform --seeds 3 --out evidence

MODEL is a stock base, pruned in memory, or a variant; a folder or the id of a Hub repo. QUESTIONS is a JSON lines file:
{"image": PATH, "question": TEXT, "answers": [TEXT, ...], "kind": TEXT}, pictures relative to the file. Writes into DIR:
results.json (all figures), table.md, accuracy_vs_budget.png (figure 1 of the paper), and answers/ (every answer). The
same command again goes on where it was stopped. Needs the extra `plot`.
"""

import argparse
import datetime
import hashlib
import json
import os
import sys
from pathlib import Path

import torch
import transformers

from divprune_hf.common.machine import hardware, versions
from divprune_hf.evaluation.answers import Setting, answer_questions
from divprune_hf.evaluation.questions import Question, read_questions
from divprune_hf.evaluation.report import draw_figure, markdown_table
from divprune_hf.evaluation.statistics import NUM_DRAWS, evaluate
from divprune_hf.inference.loading import load_pruned
from divprune_hf.remote_code.selectors import SELECTORS, selector_named


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", metavar="MODEL", help="a stock base or a variant: a folder, or the id of a Hub repo")
    parser.add_argument("questions", metavar="QUESTIONS", type=Path, help="a JSON lines file")
    parser.add_argument("--budgets", nargs="+", required=True, metavar="B", help="shares (0.098, 1.0) or numbers (64)")
    parser.add_argument("--selectors", nargs="+", default=list(SELECTORS), metavar="S")
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="how many draws of `random` (1)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the folder of this run")
    parser.add_argument("--batch-size", type=int, default=24, metavar="N", help="questions at a time (24)")
    parser.add_argument("--max-new-tokens", type=int, default=16, metavar="N", help="the longest answer (16)")
    parser.add_argument("--device", help="such as cpu or cuda:0; by default wherever there is room")
    parser.add_argument("--dtype", default="auto", help="such as float32 or bfloat16; by default the checkpoint's")
    parser.add_argument("--revision", metavar="REV", help="branch, tag or commit of a Hub repo")
    return parser.parse_args(arguments)


def parse_budget(text: str) -> float | int:
    """A budget as it is written: with a point it is a share, without one a number of tokens."""
    try:
        return float(text) if "." in text or "e" in text.lower() else int(text)
    except ValueError:
        raise ValueError(f"Got budget {text!r}, expected a share such as 0.098 or a number of tokens.") from None


def settings_of(selectors: list[str], budgets: list[str], seeds: int) -> list[Setting]:
    """Every combination, in the order in which it is run."""
    seeds_of = {selector: range(seeds) if selector_named(selector).uses_seed else [None] for selector in selectors}
    values = list(dict.fromkeys(parse_budget(budget) for budget in budgets))
    if {"1", "1.0"} <= {repr(parse_budget(budget)) for budget in budgets}:
        raise ValueError("Got the budgets 1 (one token) and 1.0 (all tokens), expected one of them in a run.")
    return [Setting(name, value, seed) for value in values for name in seeds_of for seed in seeds_of[name]]


def fingerprint(path: Path, questions: list[Question]) -> str:
    """One number for a question file and the pictures it asks about."""
    digest = hashlib.sha256(path.read_bytes())
    for image in dict.fromkeys(question.image for question in questions):
        digest.update(image.read_bytes())
    return digest.hexdigest()


def check_run(out: Path, run: dict) -> None:
    """Refuse a folder that is not of this run.

    Raises:
        ValueError: `out` holds something else, or another run.
    """
    record = out / "run.json"
    if record.is_file():
        stored = json.loads(record.read_text(encoding="utf-8"))
        differing = [name for name in run if stored.get(name) != run[name]]
        if differing:
            name = differing[0]
            raise ValueError(
                f"{out} holds another run: its {name} is {stored.get(name)!r}, not {run[name]!r}. Choose another --out."
            )
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} is no folder of a run and not empty. Choose another --out.")


def write_whole(path: Path, text: str) -> None:
    """Write beside the file and put it in place, so that a stopped run leaves no half of it."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def model_name(model: str) -> str:
    """A folder by its last name, wherever it lies; a Hub id as it is."""
    return Path(model).resolve().name if Path(model).is_dir() else model


def model_fingerprint(model: str) -> str | None:
    """One number for a checkpoint folder: its config, and size, head and tail of each file of weights."""
    if not Path(model).is_dir():
        return None  # a Hub repo is named by its id and revision
    config = Path(model) / "config.json"
    digest = hashlib.sha256(config.read_bytes() if config.is_file() else b"")
    for path in sorted(Path(model).glob("*.safetensors")):
        size = path.stat().st_size
        with path.open("rb") as stream:
            digest.update(f"{path.name} {size}".encode() + stream.read(2**20))
            stream.seek(max(0, size - 2**20))
            digest.update(stream.read())
    return digest.hexdigest()


def run(options: argparse.Namespace) -> dict:
    """Ask what is not answered yet, and write the report; return what results.json holds."""
    for name in ("seeds", "batch_size", "max_new_tokens"):
        if getattr(options, name) < 1:
            raise ValueError(f"Got --{name.replace('_', '-')} {getattr(options, name)}, expected at least 1.")
    dtype = options.dtype if options.dtype == "auto" else getattr(torch, options.dtype, None)
    if dtype != "auto" and not isinstance(dtype, torch.dtype):
        raise ValueError(f"Got --dtype {options.dtype}, expected auto or a dtype of torch such as bfloat16.")
    settings = settings_of(options.selectors, options.budgets, options.seeds)
    questions = read_questions(options.questions)
    identity = {
        "model": model_name(options.model),
        "model_sha256": model_fingerprint(options.model),
        "revision": options.revision,
        "data": str(options.questions.name),
        "data_sha256": fingerprint(options.questions, questions),
        "budgets": options.budgets,
        "selectors": options.selectors,
        "seeds": options.seeds,
        "max_new_tokens": options.max_new_tokens,
        "dtype": options.dtype,
    }
    check_run(options.out, identity)
    model, processor = load_pruned(
        options.model, retention_ratio=1.0, device=options.device, revision=options.revision, dtype=dtype
    )
    answers = options.out / "answers"
    answers.mkdir(parents=True, exist_ok=True)
    write_whole(options.out / "run.json", json.dumps(identity, indent=1))
    answered = {}
    for setting in settings:
        # Where everything is kept nothing is selected: all selectors and seeds share the answers.
        name = "all" if setting.keeps_all else f"{setting.selector}-{setting.budget}-{setting.seed}"
        path = answers / f"{name}.json"
        if not path.is_file():
            record = answer_questions(model, processor, questions, setting, options.batch_size, options.max_new_tokens)
            write_whole(path, json.dumps(record))
        answered[setting] = json.loads(path.read_text(encoding="utf-8"))
    report = {
        **evaluate(questions, answered, model.config.text_config),
        "model": identity["model"],
        "commit": getattr(model.config, "_commit_hash", None),
        "data": {"file": identity["data"], "sha256": identity["data_sha256"]},
        "intervals": f"95 %, paired bootstrap over pictures, {NUM_DRAWS} draws",
        "versions": versions(),
        "hardware": hardware(model.device),
        "date": datetime.date.today().isoformat(),
    }
    write_whole(options.out / "results.json", json.dumps(report, indent=1) + "\n")
    write_whole(options.out / "table.md", markdown_table(report))
    draw_figure(report, options.out / "accuracy_vs_budget.png")
    return report


def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(arguments)
    transformers.logging.set_verbosity_error()
    try:
        run(options)
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    print((options.out / "table.md").read_text(encoding="utf-8"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
