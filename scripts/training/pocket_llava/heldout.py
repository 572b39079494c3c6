"""Write the scenes and questions on which pocket-llava is measured again and again, from Fashion-MNIST's test split.

    python -m scripts.training.pocket_llava.heldout --out tests/data/pocket_heldout

The same every time: 500 scenes as PNG with exactly the pixels of the scene, and questions.jsonl, one question a line:
{"image": ..., "question": ..., "answers": [...], "kind": ...}. The scenes are others than those that the training
script scores once for the card; nothing is trained or chosen on either.
"""

import argparse
import json
import sys
from pathlib import Path

from divprune_hf.common.printable import one_line
from divprune_hf.common.whole_file import write_whole
from scripts.training.pocket_llava.scenes import (
    DEFAULT_DATA,
    counting_questions,
    make_scenes,
    position_questions,
    presence_questions,
)
from scripts.training.pocket_llava.scoring import pictures_of


SEED = 20261205  # not one of those in scoring.py
NUM_SCENES = 500
NUM_PRESENCE, NUM_POSITION, NUM_COUNTING = 2000, 500, 500


def write_heldout(out: Path, data: str | Path = DEFAULT_DATA) -> None:
    """Write the set into the folder `out`, which must not exist or be empty."""
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"{out} is not empty: remove it first, the set is written whole.")
    scenes = make_scenes("heldout", NUM_SCENES, SEED, data)
    questions = [
        *presence_questions(scenes, NUM_PRESENCE, SEED),
        *position_questions(scenes, NUM_POSITION, SEED),
        *counting_questions(scenes, NUM_COUNTING, SEED),
    ]
    names = [f"scene_{index:03d}.png" for index in range(NUM_SCENES)]
    out.mkdir(parents=True, exist_ok=True)
    for name, picture in zip(names, pictures_of(scenes), strict=True):
        picture.save(out / name, optimize=True)
    # Sorted by scene: a reader finds the questions about one picture together.
    questions.sort(key=lambda question: question.scene)
    entries = [
        {"image": names[question.scene], "question": question.text, "answers": [question.answer], "kind": question.kind}
        for question in questions
    ]
    lines = "".join(json.dumps(entry) + "\n" for entry in entries)
    write_whole(out / "questions.jsonl", lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default=DEFAULT_DATA, help="folder with the four Fashion-MNIST .gz files")
    parser.add_argument("--out", type=Path, default=Path("tests/data/pocket_heldout"), help="folder to make")
    options = parser.parse_args()
    try:
        write_heldout(options.out, options.data)
    except (ValueError, OSError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
