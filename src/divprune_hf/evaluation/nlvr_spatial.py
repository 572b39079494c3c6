"""Yes/no questions about number, place and presence, from the structured representation of NLVR v1.

    divprune-hf nlvr-questions nlvr nlvr-questions
    divprune-hf evaluate MODEL nlvr-questions/questions.jsonl --budgets 0.098 1.0 --selectors max_min random --out out

A set that nobody drew for pruning: pictures of three boxes with up to eight small things each (Suhr et al., "A Corpus
of Natural Language for Visual Reasoning", ACL 2017, CC-BY-4.0, https://github.com/lil-lab/nlvr). The sentences of NLVR
itself are not used. Half of the answers of each kind are "yes": chance is 50 %.
"""

import json
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from divprune_hf.common.whole_file import check_new_folder, write_whole


COLOURS = {"Yellow": "yellow", "#0099ff": "blue", "Black": "black"}
SHAPES = ("circle", "square", "triangle")
BOXES = ("left", "middle", "right")
NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight")
BACKGROUND = (255, 255, 255)
FORM = "Answer yes or no."

Thing = tuple[str, str]  # a colour and a shape
KINDS = [(colour, shape) for colour in COLOURS.values() for shape in SHAPES]


@dataclass(frozen=True)
class Scene:
    """A picture of NLVR.

    Attributes:
        picture: its file, with the boxes in the order of `boxes`.
        boxes: the things in the left, the middle and the right box.
    """

    picture: Path
    boxes: tuple[Sequence[Thing], ...]

    @property
    def things(self) -> Counter[Thing]:
        """How many of each kind there are in all boxes."""
        return Counter(thing for box in self.boxes for thing in box)


def read_scenes(folder: Path, split: str) -> list[Scene]:
    """Return the scenes of a split whose pictures are there.

    Args:
        folder: the folder `nlvr` of the repository, or one of its layout.
        split: such as "dev": `dev/dev.json`, and the pictures in `dev/images`.

    Raises:
        ValueError: no such split, a line that is no example, or no picture.
    """
    examples = folder / split / f"{split}.json"
    if not examples.is_file():
        raise ValueError(f"{examples} is missing, expected the folder nlvr of https://github.com/lil-lab/nlvr.")
    scenes = []
    for number, line in enumerate(examples.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            example = json.loads(line)
            boxes = tuple(
                [(COLOURS[thing["color"]], thing["type"]) for thing in box] for box in example["structured_rep"]
            )
            name = f"{split}-{example['identifier']}-0.png"  # the permutation 0 is the order of the boxes
            picture = folder / split / "images" / str(example["directory"]) / name
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{examples}, line {number} is no example of NLVR v1 ({error!r}).") from None
        if len(boxes) == len(BOXES) and picture.is_file():
            scenes.append(Scene(picture, boxes))
    if not scenes:
        raise ValueError(f"{folder / split / 'images'} has no picture that {examples.name} is about.")
    return scenes


def named(thing: Thing) -> str:
    """Return "yellow circle"."""
    return " ".join(thing)


def ask_presence(scene: Scene, yes: bool, rng: random.Random) -> str | None:
    """Return a question whether a kind of thing is there."""
    kinds = [thing for thing in KINDS if (thing in scene.things) == yes]
    return f"Is there a {named(rng.choice(kinds))}?" if kinds else None


def ask_number(scene: Scene, yes: bool, rng: random.Random) -> str | None:
    """Return a question whether there are exactly so many of a kind that is there; a wrong number is one off."""
    counted = [(thing, count) for thing, count in scene.things.items() if count < len(NUMBERS) - 1]
    if not counted:
        return None
    thing, count = rng.choice(sorted(counted))
    count += 0 if yes else rng.choice([-1, 1] if count > 1 else [1])
    is_one = count == 1
    return f"{'Is' if is_one else 'Are'} there exactly {NUMBERS[count]} {named(thing)}{'' if is_one else 's'}?"


def ask_place(scene: Scene, yes: bool, rng: random.Random) -> str | None:
    """Return a question whether a kind of thing that is in the picture is in a box."""
    places = [
        (thing, index) for thing in scene.things for index, box in enumerate(scene.boxes) if (thing in box) == yes
    ]
    if not places:
        return None
    thing, index = rng.choice(sorted(places))
    return f"Is there a {named(thing)} in the {BOXES[index]} box?"


QUESTIONS: dict[str, Callable[[Scene, bool, random.Random], str | None]] = {
    "presence": ask_presence,
    "number": ask_number,
    "place": ask_place,
}


def questions_about(scene: Scene, rng: random.Random, form: str = FORM) -> list[tuple[str, str, str]]:
    """Return (kind, question, answer): one "yes" and one "no" of each kind, or neither where one cannot be asked.

    `form` stands behind each question.
    """
    asked = []
    for kind, ask in QUESTIONS.items():
        pair = [(ask(scene, yes, rng), "yes" if yes else "no") for yes in (True, False)]
        if all(text for text, _ in pair):
            asked += [(kind, f"{text} {form}".strip(), answer) for text, answer in pair]
    return asked


def as_square(picture: Image.Image) -> Image.Image:
    """Return the whole picture in the middle of a square: processors that crop one would lose its outer boxes."""
    side = max(picture.size)
    square = Image.new("RGB", (side, side), BACKGROUND)
    square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return square


def write_questions(folder: str | Path, out: str | Path, *, split: str = "dev", seed: int = 0, form: str = FORM) -> int:
    """Write questions.jsonl and its pictures into a new folder; return the number of questions.

    Args:
        folder: the folder `nlvr` of the repository, or one of its layout.
        out: the folder to make.
        split: which pictures to ask about.
        seed: of the questions.
        form: what stands behind each question.

    Raises:
        ValueError: `out` is not empty, or `folder` cannot be read. Nothing is written then.
    """
    out = Path(out)
    check_new_folder(out)
    scenes = read_scenes(Path(folder), split)
    rng, lines = random.Random(seed), []
    out.mkdir(parents=True, exist_ok=True)
    for scene in scenes:
        with Image.open(scene.picture) as picture:
            as_square(picture.convert("RGB")).save(out / scene.picture.name)
        for kind, question, answer in questions_about(scene, rng, form):
            line = {"image": scene.picture.name, "question": question, "answers": [answer], "kind": kind}
            lines.append(json.dumps(line) + "\n")
    write_whole(out / "questions.jsonl", "".join(lines))
    return len(lines)
