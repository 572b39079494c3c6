"""The demo: pocket-llava converted, loaded as remote code, and asked with all visual tokens and with a tenth.

A tenth is tried twice: numbered anew as in the paper, and each kept token at its own position.
"""

import json
import math
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm.auto import tqdm

from divprune_hf.cli import demo_answers
from divprune_hf.common.markdown import markdown_table
from divprune_hf.common.own_process import run_python
from divprune_hf.common.pocket_llava import pocket_llava
from divprune_hf.inference.pictures import check_drawable, contact_sheet, draw_kept, save_picture
from divprune_hf.publishing.convert import convert_checkpoint


# The columns: a title and the settings that the variant is loaded with.
RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "full": ("all tokens", {"retention_ratio": 1.0}),
    "pruned": ("a tenth", {}),
    "original": ("a tenth, original positions", {"positions": "original"}),
}


def run_demo(picture_file: str | Path, say: Callable[[str], object] = print) -> dict[str, dict[str, Any]]:
    """Run the demo.

    Args:
        picture_file: the file to draw the kept patches into.
        say: takes each piece of the printed text.

    Returns:
        A dict with the figures of the table: for each name of `RUNS` the visual tokens per picture, prompt tokens
        (median), prefill milliseconds (median), peak memory in bytes and the share of right answers, in all
        (`accuracy`) and for each kind of question.
    """
    check_drawable(picture_file)
    questions_file = pocket_llava() / "examples" / "questions.json"
    questions = json.loads(questions_file.read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory(prefix="divprune-demo-") as folder:
        variant = convert_checkpoint(pocket_llava(), Path(folder) / "pocket-llava-divprune")
        results = {
            name: answer_in_own_process(variant, questions_file, settings, Path(folder))
            for name, (_, settings) in tqdm(RUNS.items(), desc="Asking with all tokens, and twice with a tenth")
        }
    titles = [title for title, _ in RUNS.values()]
    rows = [
        [asked["question"], *(results[name]["answers"][number]["answer"] for name in RUNS), asked["answer"]]
        for number, asked in enumerate(questions)
    ]
    say(markdown_table(["question", *titles, "expected"], rows, style="aligned"))
    figures = {name: summary(result, questions) for name, result in results.items()}
    say("")
    say(markdown_table(["", *titles], summary_rows(figures, questions), style="aligned"))
    full, pruned = results["full"], results["pruned"]
    first_scene = next(iter(full["kept_by_scene"]))
    side = math.isqrt(len(full["kept_by_scene"][first_scene]))
    sheet = [
        draw_kept(Image.open(questions_file.parent / scene).convert("RGB"), kept, side, side)
        for scene, kept in pruned["kept_by_scene"].items()
    ]
    save_picture(contact_sheet(sheet), picture_file)
    say(f"\nKept patches: {picture_file}")
    return figures


def answer_in_own_process(
    variant: Path, questions_file: Path, settings: dict[str, Any], folder: Path
) -> dict[str, Any]:
    """Run `demo_answers.py` in a process that does not import this package, and return what it prints.

    Raises:
        OSError: the process failed.
        ValueError: the process ran other code than the variant's own.
    """
    environment = {**os.environ, "HF_MODULES_CACHE": str(folder / "modules"), "HF_HUB_OFFLINE": "1"}
    arguments = [demo_answers.__file__, str(variant), str(questions_file), json.dumps(settings)]
    printed = run_python(arguments, "the demo's model process", folder, environment)
    answers = json.loads(printed.splitlines()[-1])
    if not answers["module"].startswith("transformers_modules."):
        raise ValueError(f"Got the class of {answers['module']}, expected the variant's own remote code.")
    return answers


def summary(result: dict[str, Any], questions: list[dict[str, str]]) -> dict[str, Any]:
    """Return the figures of one process, as `run_demo` returns them."""
    prompt_tokens = sorted(got["prompt_tokens"] for got in result["answers"])
    right = {"accuracy": [got["answer"] == asked["answer"] for got, asked in zip(result["answers"], questions)]}
    for is_right, asked in zip(right["accuracy"], questions):
        right.setdefault(asked["kind"], []).append(is_right)
    return {
        "visual_tokens": len(next(iter(result["kept_by_scene"].values()))),
        "prompt_tokens": prompt_tokens[len(prompt_tokens) // 2],
        "prefill_ms": result["prefill_ms"],
        "peak_bytes": result["peak_bytes"],
        **{name: sum(answers) / len(answers) for name, answers in right.items()},
    }


def summary_rows(figures: dict[str, dict[str, Any]], questions: list[dict[str, str]]) -> list[list[str]]:
    """Return the figures as lines of a table."""
    kinds = sorted({asked["kind"] for asked in questions})
    lines = [
        ("visual tokens per picture", "visual_tokens", "{:d}", 1),
        ("prompt tokens, median", "prompt_tokens", "{:d}", 1),
        ("prefill, median ms", "prefill_ms", "{:.1f}", 1),
        ("peak memory of the process, MB", "peak_bytes", "{:.0f}", 1e-6),
        (f"right of {len(questions)} questions", "accuracy", "{:.1%}", 1),
        *((f"- {kind}", kind, "{:.1%}", 1) for kind in kinds),
    ]
    return [
        [label, *(text.format(column[name] * unit) for column in figures.values())] for label, name, text, unit in lines
    ]
