"""A file of questions as a task of lmms-eval, scored as `divprune-hf evaluate` scores it.

write_task("questions.jsonl", "tasks")
lmms-eval --model divprune_hf --model_args pretrained=MODEL --include_path tasks --tasks questions
"""

import json
from pathlib import Path
from typing import Any

from divprune_hf.evaluation.questions import Question, read_questions


def write_task(
    questions: str | Path, out: str | Path, *, name: str | None = None, every: int = 1, max_new_tokens: int = 16
) -> str:
    """Write a task about a file of questions; return its name.

    Args:
        questions: a JSON lines file, as `divprune-hf evaluate` takes it.
        out: the folder to write into, which lmms-eval gets as `--include_path`.
        name: the name of the task; by default that of the file.
        every: take every `every`-th question, from the first on.
        max_new_tokens: the longest answer, in tokens.

    Raises:
        ValueError: no such file, or a line that is no question.
    """
    import yaml

    read = read_questions(questions)[::every]
    folder, name = Path(out), name or Path(questions).stem
    folder.mkdir(parents=True, exist_ok=True)
    data = (folder / f"{name}.jsonl").resolve()
    data.write_text("".join(f"{json.dumps(as_document(question))}\n" for question in read), encoding="utf-8")
    kinds = list(dict.fromkeys(question.kind for question in read))
    task = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "question",
        "doc_to_target": "answers",
        "generation_kwargs": {"max_new_tokens": max_new_tokens, "do_sample": False},
        "metric_list": [
            {"metric": metric, "aggregation": "mean", "higher_is_better": True} for metric in ("accuracy", *kinds)
        ],
    }
    functions = f"doc_to_visual: !function {__name__}.picture\nprocess_results: !function {__name__}.score\n"
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(task, sort_keys=False) + functions, encoding="utf-8")
    return name


def as_document(question: Question) -> dict[str, Any]:
    """Return a question as a line of a task's data."""
    return {
        "image": str(question.image.resolve()),
        "question": question.text,
        "answers": list(question.answers),
        "kind": question.kind,
    }


def picture(document: dict[str, Any]) -> list[str]:
    """Return the pictures of a document, as files."""
    return [document["image"]]


def score(document: dict[str, Any], answers: list[str]) -> dict[str, float]:
    """Return 1 or 0 for an answer, in all and in its kind."""
    accepted = tuple(document["answers"])
    question = Question(Path(document["image"]), document["question"], accepted, document["kind"])
    value = float(question.accepts(answers[0]))
    return {"accuracy": value, document["kind"]: value}
