"""The demo: pocket-llava converted, loaded as remote code, and asked with all visual tokens and with a tenth."""

import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from PIL import Image
from tqdm.auto import tqdm

from divprune_hf.cli import demo_answers
from divprune_hf.common.pocket_llava import pocket_llava
from divprune_hf.inference.pictures import check_drawable, contact_sheet, draw_kept, save_picture
from divprune_hf.publishing.convert import convert_checkpoint
from divprune_hf.remote_code.settings import SETTINGS


def run_demo(picture_file: str | Path, say: Callable[[str], object] = print) -> dict[str, dict]:
    """Run the demo; print its table with `say` and draw the kept patches into `picture_file`.

    Returns:
        A dict with the figures of the table: for `"full"` and `"pruned"` the visual tokens per picture, prompt tokens
        (median), prefill milliseconds (median), peak memory in bytes and the share of right answers, in all
        (`accuracy`) and for each kind of question.
    """
    check_drawable(picture_file)
    questions_file = pocket_llava() / "examples" / "questions.json"
    questions = json.loads(questions_file.read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory(prefix="divprune-demo-") as folder:
        variant = convert_checkpoint(pocket_llava(), Path(folder) / "pocket-llava-divprune")
        full, pruned = (
            answer_in_own_process(variant, questions_file, retention_ratio, Path(folder))
            for retention_ratio in tqdm(
                (1.0, SETTINGS["retention_ratio"].default), desc="Asking with all tokens, with a tenth"
            )
        )
    rows = [
        [question["question"], all_tokens["answer"], kept_tokens["answer"], question["answer"]]
        for question, all_tokens, kept_tokens in zip(questions, full["answers"], pruned["answers"])
    ]
    say(table(["question", "all tokens", "a tenth", "expected"], rows))
    figures = {"full": summary(full, questions), "pruned": summary(pruned, questions)}
    say("")
    say(table(["", "all tokens", "a tenth"], summary_rows(figures, questions)))
    first_scene = next(iter(full["kept_by_scene"]))
    side = math.isqrt(len(full["kept_by_scene"][first_scene]))
    sheet = [
        draw_kept(Image.open(questions_file.parent / scene).convert("RGB"), kept, side, side)
        for scene, kept in pruned["kept_by_scene"].items()
    ]
    save_picture(contact_sheet(sheet), picture_file)
    say(f"\nKept patches: {picture_file}")
    return figures


def answer_in_own_process(variant, questions_file, retention_ratio, folder):
    """Run `demo_answers.py` where this package has not been imported, and read what it prints."""
    environment = {**os.environ, "HF_MODULES_CACHE": str(folder / "modules"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, demo_answers.__file__, str(variant), str(questions_file), str(retention_ratio)]
    result = subprocess.run(
        command, capture_output=True, encoding="utf-8", errors="replace", env=environment, cwd=folder
    )
    if result.returncode != 0:
        (last,) = result.stderr.strip().splitlines()[-1:] or [f"exit code {result.returncode}"]
        raise OSError(f"the demo's model process failed: {last}")
    answers = json.loads(result.stdout.splitlines()[-1])
    if not answers["module"].startswith("transformers_modules."):
        raise ValueError(f"Got the class of {answers['module']}, expected the variant's own remote code.")
    return answers


def summary(result, questions):
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


def summary_rows(figures, questions):
    full, pruned = figures["full"], figures["pruned"]
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
        [label, *(text.format(column[name] * unit) for column in (full, pruned))] for label, name, text, unit in lines
    ]


def table(header, rows):
    """A Markdown table with aligned columns."""
    widths = [max(len(str(row[i])) for row in [header, *rows]) for i in range(len(header))]
    lines = [header, ["-" * width for width in widths], *rows]
    return "\n".join("| " + " | ".join(str(cell).ljust(w) for cell, w in zip(line, widths)) + " |" for line in lines)
