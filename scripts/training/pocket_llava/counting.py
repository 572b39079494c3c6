"""Errors of pocket-llava's counts: why original positions make it count too many where much is kept.

    python -m scripts.training.pocket_llava.counting --budgets 0.098 0.5

Questions about all objects of a scene are told from those about one kind. `too many` and `too few` are numbers of
answers, the mean error is answer minus truth.
"""

import argparse
import itertools
import sys
from pathlib import Path

import transformers

from divprune_hf.common.markdown import markdown_row, markdown_table
from divprune_hf.common.pocket_llava import pocket_llava
from divprune_hf.common.printable import one_line
from divprune_hf.evaluation.answers import answer_questions
from divprune_hf.evaluation.questions import Question, read_questions
from divprune_hf.evaluation.settings import Setting, parse_budget
from divprune_hf.inference.loading import load_pruned
from divprune_hf.remote_code.settings import POSITIONS


HELD_OUT = Path(__file__).parents[3] / "tests" / "data" / "pocket_heldout" / "questions.jsonl"
HEADER = ["budget", "selector", "positions", "of", "right", "too many", "too few", "mean error"]


def counting_questions(limit: int | None = None) -> dict[str, list[Question]]:
    """Return the held-out questions that count, by what they count: "all objects" or "one kind"."""
    questions = [question for question in read_questions(HELD_OUT) if question.kind == "counting"][:limit]
    of_all = [question for question in questions if "objects" in question.text]
    return {"all objects": of_all, "one kind": [question for question in questions if question not in of_all]}


def errors_of(questions: list[Question], answers: list[str]) -> list[int]:
    """Return answer minus truth of each question that was answered by a number."""
    pairs = [(answer.strip(" ."), question.answers[0]) for question, answer in zip(questions, answers)]
    return [int(answer) - int(truth) for answer, truth in pairs if answer.isdigit()]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--budgets", nargs="+", default=["0.5"], metavar="B", help="shares or numbers of tokens (0.5)")
    parser.add_argument("--limit", type=int, metavar="N", help="ask the first N counting questions alone")
    options = parser.parse_args(arguments)
    transformers.logging.set_verbosity_error()
    try:
        settings = [
            Setting(selector, parse_budget(budget), positions=positions)
            for budget, selector, positions in itertools.product(options.budgets, ("max_min", "uniform"), POSITIONS)
        ]
        model, processor = load_pruned(pocket_llava(), positions="original", device="cpu")
    except (ValueError, OSError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 2
    print(markdown_table(HEADER))
    for setting, (what, questions) in itertools.product(settings, counting_questions(options.limit).items()):
        record = answer_questions(model, processor, questions, setting, batch_size=24, max_new_tokens=4)
        errors = errors_of(questions, record["answers"])
        cells = [str(setting.budget), setting.selector, setting.positions, f"{len(questions)} ({what})"]
        cells += [f"{sum(error == 0 for error in errors) / len(questions):.1%}"]
        cells += [str(sum(error > 0 for error in errors)), str(sum(error < 0 for error in errors))]
        print(markdown_row([*cells, f"{sum(errors) / max(1, len(errors)):+.2f}"]), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
