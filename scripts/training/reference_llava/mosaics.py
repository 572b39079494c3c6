"""Mosaics of real photos, and questions whether something is there and where, for the reference model."""

import json
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from divprune_hf.common.whole_file import check_new_folder, write_whole
from scripts.training.reference_llava.photos import Photos


SIZE, GRID = 336, 4
CELL = SIZE // GRID
MIN_FILLED, MAX_FILLED = 2, 8
NOTHING = "nothing"


@dataclass
class Mosaic:
    """A picture of `SIZE` pixels, and the name in each of its `GRID` x `GRID` cells, or "nothing"."""

    picture: Image.Image
    cells: list[str]


def with_article(name: str) -> str:
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def draw_mosaic(photos: Photos, by_name: dict[str, list[int]], rng: random.Random, most: int = MAX_FILLED) -> Mosaic:
    """Photos in up to `most` cells, names drawn evenly, the rest one plain colour."""
    canvas = np.empty((SIZE, SIZE, 3), dtype=np.uint8)
    canvas[:] = [rng.randrange(60, 200) for _ in range(3)]
    cells = [NOTHING] * GRID**2
    # One name is always left out: there is something to ask for that is not there.
    names = rng.sample(sorted(by_name), len(by_name) - 1)
    for cell in rng.sample(range(GRID**2), rng.randint(MIN_FILLED, most)):
        name = rng.choice(names)
        crop = Image.fromarray(photos.crops[rng.choice(by_name[name])]).resize((CELL, CELL), Image.Resampling.BICUBIC)
        row, column = divmod(cell, GRID)
        canvas[row * CELL : (row + 1) * CELL, column * CELL : (column + 1) * CELL] = np.asarray(crop)
        cells[cell] = name
    return Mosaic(Image.fromarray(canvas), cells)


def ask_presence(mosaic: Mosaic, names: list[str], rng: random.Random) -> tuple[str, str]:
    """A question and its answer, "yes" as often as "no"."""
    there = sorted(set(mosaic.cells) - {NOTHING})
    yes = rng.random() < 0.5
    name = rng.choice(there if yes else sorted(set(names) - set(there)))
    return f"Is there {with_article(name)}? Answer yes or no.", "yes" if yes else "no"


def ask_position(mosaic: Mosaic, rng: random.Random) -> tuple[str, str]:
    """A question and its answer, about a filled cell as often as about an empty one."""
    empty = rng.random() < 0.5
    cell = rng.choice([number for number, name in enumerate(mosaic.cells) if (name == NOTHING) == empty])
    row, column = divmod(cell, GRID)
    return f"What is in row {row + 1} column {column + 1}? Answer in a word.", mosaic.cells[cell]


def draw_turns(mosaic: Mosaic, names: list[str], num_turns: int, rng: random.Random) -> list[tuple[str, str, str]]:
    """Questions about a mosaic in turn, as (kind, question, answer)."""
    turns = []
    for number in range(num_turns):
        kind = "position" if number % 2 else "presence"
        ask = ask_position(mosaic, rng) if number % 2 else ask_presence(mosaic, names, rng)
        turns.append((kind, *ask))
    return turns


def write_questions(photos: Photos, folder: Path, num_mosaics: int, seed: int, num_turns: int = 8) -> None:
    """Write a question file for `divprune-hf evaluate`, with its pictures, into a new folder."""
    check_new_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    rng, by_name = random.Random(seed), photos.by_name()
    lines = []
    for number in range(num_mosaics):
        mosaic = draw_mosaic(photos, by_name, rng)
        name = f"mosaic_{number:04d}.png"
        mosaic.picture.save(folder / name)
        for kind, question, answer in dict.fromkeys(draw_turns(mosaic, sorted(by_name), num_turns, rng)):
            lines.append(json.dumps({"image": name, "question": question, "answers": [answer], "kind": kind}) + "\n")
    write_whole(folder / "questions.jsonl", "".join(lines))
