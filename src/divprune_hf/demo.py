"""The demo: pocket-llava converted, loaded as remote code, and asked with all visual tokens and with a tenth."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from PIL import Image
from tqdm.auto import tqdm

from divprune_hf import demo_answers
from divprune_hf.package_data import pocket_llava
from divprune_hf.pictures import contact_sheet, draw_kept
from divprune_hf.publishing.convert import convert_checkpoint
from divprune_hf.remote_code.configuration_divprune import DEFAULT_RETENTION_RATIO


def run_demo(picture_file: str | Path, say: Callable[[str], object] = print) -> dict[str, dict]:
    """Run the demo; print its table with `say` and draw the kept patches into `picture_file`.

    Returns:
        A dict with the figures of the table: for `"full"` and `"pruned"` the visual tokens per picture, prompt tokens
        (median), prefill milliseconds (median), peak memory in bytes and accuracy.
    """
    questions_file = pocket_llava() / "examples" / "questions.json"
    questions = json.loads(questions_file.read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory(prefix="divprune-demo-") as folder:
        variant = convert_checkpoint(pocket_llava(), Path(folder) / "pocket-llava-divprune")
        full, pruned = (
            answer_in_own_process(variant, questions_file, retention_ratio, Path(folder))
            for retention_ratio in tqdm((1.0, DEFAULT_RETENTION_RATIO), desc="Asking with all tokens, with a tenth")
        )
    rows = [
        [question["question"], all_tokens["answer"], kept_tokens["answer"], question["answer"]]
        for question, all_tokens, kept_tokens in zip(questions, full["answers"], pruned["answers"])
    ]
    say(table(["question", "all tokens", "a tenth", "expected"], rows))
    figures = {"full": summary(full, questions), "pruned": summary(pruned, questions)}
    say("")
    say(table(["", "all tokens", "a tenth"], summary_rows(figures)))
    first_scene = next(iter(full["kept_by_scene"]))
    num_patches = len(full["kept_by_scene"][first_scene])
    sheet = [
        draw_kept(Image.open(questions_file.parent / scene).convert("RGB"), kept, num_patches)
        for scene, kept in pruned["kept_by_scene"].items()
    ]
    contact_sheet(sheet).save(picture_file)
    say(f"\nKept patches: {picture_file}")
    return figures


def answer_in_own_process(variant, questions_file, retention_ratio, folder):
    """Run `demo_answers.py` where this package has not been imported, and read what it prints."""
    environment = {**os.environ, "HF_MODULES_CACHE": str(folder / "modules"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, demo_answers.__file__, str(variant), str(questions_file), str(retention_ratio)]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder)
    if result.returncode != 0:
        raise OSError(f"the demo's model process failed: {result.stderr.strip().splitlines()[-1]}")
    answers = json.loads(result.stdout.splitlines()[-1])
    if not answers["module"].startswith("transformers_modules."):
        raise ValueError(f"Got the class of {answers['module']}, expected the variant's own remote code.")
    return answers


def summary(result, questions):
    right = [got["answer"] == question["answer"] for got, question in zip(result["answers"], questions, strict=True)]
    prompt_tokens = sorted(got["prompt_tokens"] for got in result["answers"])
    return {
        "visual_tokens": len(next(iter(result["kept_by_scene"].values()))),
        "prompt_tokens": prompt_tokens[len(prompt_tokens) // 2],
        "prefill_ms": result["prefill_ms"],
        "peak_bytes": result["peak_bytes"],
        "accuracy": sum(right) / len(right),
        "num_questions": len(right),
    }


def summary_rows(figures):
    full, pruned = figures["full"], figures["pruned"]
    formats = {
        "visual tokens per picture": "{visual_tokens}",
        "prompt tokens, median": "{prompt_tokens}",
        "prefill, median ms": "{prefill_ms:.1f}",
        "peak memory, MB": "{peak_megabytes:.0f}",
        "right of {num_questions} questions": "{accuracy:.1%}",
    }
    full, pruned = ({**column, "peak_megabytes": column["peak_bytes"] / 1e6} for column in (full, pruned))
    return [[name.format(**full), text.format(**full), text.format(**pruned)] for name, text in formats.items()]


def table(header, rows):
    """A Markdown table with aligned columns."""
    widths = [max(len(str(row[i])) for row in [header, *rows]) for i in range(len(header))]
    lines = [header, ["-" * width for width in widths], *rows]
    return "\n".join("| " + " | ".join(str(cell).ljust(w) for cell, w in zip(line, widths)) + " |" for line in lines)
