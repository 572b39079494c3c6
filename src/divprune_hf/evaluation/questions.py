"""Questions about pictures, read from a JSON lines file, and the rule by which an answer is right.

One question a line: {"image": "scene_000.png", "question": "Is there a bag?", "answers": ["yes"], "kind": "presence"}.
`image` is relative to the folder of the file; every one of `answers` is accepted.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path


KEYS = ("image", "question", "answers", "kind")


@dataclass(frozen=True)
class Question:
    """A question about a picture.

    Args:
        image: the file of the picture.
        text: the question.
        answers: the accepted answers, as `normalised` writes them.
        kind: the group that the question is counted in, such as "presence".
    """

    image: Path
    text: str
    answers: tuple[str, ...]
    kind: str

    def accepts(self, answer: str) -> bool:
        """Tell whether an answer is right: its first clause ("Yes, there is.") is an accepted one, in any case."""
        return normalised(answer) in self.answers


def normalised(answer: str) -> str:
    """Return the first clause of an answer in lower case: up to the end of a line or punctuation that ends a word."""
    return re.split(r"[.,;:!?](?:\s|$)|\n", answer.strip())[0].strip().lower()


def read_questions(path: str | Path) -> list[Question]:
    """Return the questions of a JSON lines file.

    Raises:
        ValueError: no such file, no question in it, a line that is not one, or a picture that is missing.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path} is not a file, expected a JSON lines file of questions.")
    questions = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if line.strip():
            questions.append(read_question(line, path.parent, f"{path}, line {number}"))
    if not questions:
        raise ValueError(f"{path} has no questions, expected one a line with the keys {KEYS}.")
    for image in dict.fromkeys(question.image for question in questions):
        if not image.is_file():
            raise ValueError(f"{image} is missing, a picture that {path} asks about.")
    return questions


def read_question(line: str, folder: Path, place: str) -> Question:
    """Return one line as a `Question`; `place` names the line in an error."""
    try:
        entry = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{place} is not JSON ({error}).") from None
    if not isinstance(entry, dict) or any(key not in entry for key in KEYS):
        raise ValueError(f"{place} is {line[:80]!r}, expected an object with the keys {KEYS}.")
    answers = [entry["answers"]] if isinstance(entry["answers"], str) else entry["answers"]
    texts = [entry["image"], entry["question"], entry["kind"]]
    if not isinstance(answers, list) or not answers or not all(isinstance(text, str) for text in [*texts, *answers]):
        raise ValueError(f"{place} is {line[:80]!r}, expected texts, and at least one accepted answer.")
    accepted = tuple(normalised(answer) for answer in answers)
    return Question(folder / entry["image"], entry["question"], accepted, entry["kind"])
