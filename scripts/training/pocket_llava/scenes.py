"""Scenes of small Fashion-MNIST pictures on varied backgrounds, and questions about them.

A scene is a 224 x 224 RGB picture cut into 4 x 4 cells of 56 pixels. Two to eight cells hold one object: a 28 x 28
Fashion-MNIST picture, slightly tinted, at a place inside its cell that falls on the 14 pixel patch grid, so it covers
2 x 2 of the 16 x 16 patches. The scenes are designed: the objects are small and the rest is background, which is
what makes most visual tokens redundant.

Three splits share no picture: "train" and "validation" cut the data set's train split, "heldout" is its test split.
"""

import gzip
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional


DEFAULT_DATA = "/usr/share/datasets/fashion-mnist"
IMAGE_SIZE = 224
PATCH_SIZE = 14
OBJECT_SIZE = 28
PATCH_GRID = IMAGE_SIZE // PATCH_SIZE
CELL_GRID = 4
CELL_PATCHES = PATCH_GRID // CELL_GRID
VALIDATION_PICTURES = 5000

# Fashion-MNIST label -> (singular phrase, plural phrase). The label "Shirt" (6) is left out.
OBJECT_NAMES = {
    0: ("a t-shirt", "t-shirts"),
    1: ("a pair of trousers", "pairs of trousers"),
    2: ("a pullover", "pullovers"),
    3: ("a dress", "dresses"),
    4: ("a coat", "coats"),
    5: ("a sandal", "sandals"),
    7: ("a sneaker", "sneakers"),
    8: ("a bag", "bags"),
    9: ("a boot", "boots"),
}
SINGULAR = [names[0] for names in OBJECT_NAMES.values()]
PLURAL = [names[1] for names in OBJECT_NAMES.values()]
NUM_CLASSES = len(OBJECT_NAMES)
# In cell and patch maps this number stands for "no object here".
NOTHING = NUM_CLASSES
# Shoes keep the direction they have in the data set; everything else may be mirrored while training.
SHOES = [index for index, label in enumerate(OBJECT_NAMES) if label in (5, 7, 9)]


@dataclass
class Pictures:
    """One split of Fashion-MNIST: `images` (num, 28, 28) in 0..1 and class indices `labels` (num,)."""

    images: torch.Tensor
    labels: torch.Tensor
    augment: bool


@dataclass
class Scenes:
    """`images` (num, 3, 224, 224) uint8; `cells` (num, 16) class per cell; `patches` (num, 256) class per patch."""

    images: torch.Tensor
    cells: torch.Tensor
    patches: torch.Tensor

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class Question:
    """A question about scene number `scene`; `topic` is the class asked about, NOTHING if none is."""

    scene: int
    kind: str
    text: str
    answer: str
    topic: int


def _read_idx(path: Path, header: int) -> np.ndarray:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; install the Debian package dataset-fashion-mnist or pass --data")
    with gzip.open(path) as stream:
        return np.frombuffer(stream.read(), dtype=np.uint8, offset=header)


def load_pictures(split: str, data: str | Path = DEFAULT_DATA) -> Pictures:
    """Read the pictures of "train", "validation" or "heldout"."""
    if split not in ("train", "validation", "heldout"):
        raise ValueError(f'split must be "train", "validation" or "heldout", got {split!r}')
    prefix = "t10k" if split == "heldout" else "train"
    images = _read_idx(Path(data) / f"{prefix}-images-idx3-ubyte.gz", 16).reshape(-1, OBJECT_SIZE, OBJECT_SIZE)
    labels = _read_idx(Path(data) / f"{prefix}-labels-idx1-ubyte.gz", 8)
    if split == "train":
        images, labels = images[:-VALIDATION_PICTURES], labels[:-VALIDATION_PICTURES]
    elif split == "validation":
        images, labels = images[-VALIDATION_PICTURES:], labels[-VALIDATION_PICTURES:]
    index_of = np.full(10, -1)
    index_of[list(OBJECT_NAMES)] = np.arange(NUM_CLASSES)
    known = index_of[labels] >= 0
    return Pictures(
        torch.from_numpy(images[known].copy()).float() / 255,
        torch.from_numpy(index_of[labels[known]]),
        augment=split == "train",
    )


def _backgrounds(num: int, generator: torch.Generator) -> torch.Tensor:
    """Muted backgrounds (num, 3, 224, 224): flat, gradient, stripes, checks or low-frequency noise."""

    def uniform(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator)

    axis = torch.linspace(0, 1, IMAGE_SIZE)
    kind = torch.randint(5, (num,), generator=generator)
    angle, phase, frequency = uniform(num) * 2 * np.pi, uniform(num, 2) * 2 * np.pi, 2 + uniform(num, 2) * 8
    blend = torch.zeros(num, IMAGE_SIZE, IMAGE_SIZE)
    coarse = uniform(num, 1, 6, 6)
    slanted = torch.cos(angle)[:, None, None] * axis + (torch.sin(angle)[:, None] * axis)[:, :, None]
    rows = torch.sin(2 * np.pi * frequency[:, :1] * axis + phase[:, :1]) > 0
    columns = torch.sin(2 * np.pi * frequency[:, 1:] * axis + phase[:, 1:]) > 0
    blend[kind == 1] = slanted[kind == 1]
    pick = kind == 2
    waves = 2 * np.pi * frequency[pick, :1, None] * slanted[pick] + phase[pick, :1, None]
    blend[pick] = 0.5 + 0.5 * torch.sin(waves)
    pick = kind == 3
    blend[pick] = (rows[pick][:, :, None] ^ columns[pick][:, None, :]).float()
    pick = kind == 4
    blend[pick] = functional.interpolate(coarse[pick], IMAGE_SIZE, mode="bilinear", align_corners=True)[:, 0]
    first = 0.08 + 0.42 * uniform(num, 3)
    second = (first + 0.4 * (uniform(num, 3) - 0.5)).clamp(0.03, 0.55)
    return torch.addcmul(first[:, :, None, None], (second - first)[:, :, None, None], blend[:, None])


def _draw_objects(pictures: Pictures, num: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw `num` objects: brightness (num, 28, 28) and class index (num,)."""
    index = torch.randint(pictures.labels.numel(), (num,), generator=generator)
    images, labels = pictures.images[index], pictures.labels[index]
    if pictures.augment:
        mirror = torch.rand(num, generator=generator) < 0.5
        mirror &= ~torch.isin(labels, torch.tensor(SHOES))
        images = torch.where(mirror[:, None, None], images.flip(2), images)
        shift = torch.randint(-1, 2, (num, 2), generator=generator)
        offsets = torch.arange(OBJECT_SIZE)
        padded = functional.pad(images, (1, 1, 1, 1))
        rows, columns = offsets + 1 + shift[:, :1], offsets + 1 + shift[:, 1:]
        images = padded[torch.arange(num)[:, None, None], rows[:, :, None], columns[:, None, :]]
    return images, labels


def draw_scenes(
    pictures: Pictures, num_scenes: int, generator: torch.Generator, min_objects: int = 2, max_objects: int = 8
) -> Scenes:
    """Compose `num_scenes` scenes at once from a seeded generator."""
    canvas = _backgrounds(num_scenes, generator)
    counts = torch.randint(min_objects, max_objects + 1, (num_scenes, 1), generator=generator)
    order = torch.rand(num_scenes, CELL_GRID**2, generator=generator).argsort(1).argsort(1)
    scene, cell = (order < counts).nonzero(as_tuple=True)
    brightness, labels = _draw_objects(pictures, scene.numel(), generator)

    offset = torch.randint(CELL_PATCHES - 1, (scene.numel(), 2), generator=generator)
    top = cell // CELL_GRID * CELL_PATCHES + offset[:, 0]
    left = cell % CELL_GRID * CELL_PATCHES + offset[:, 1]
    tint = 0.8 + 0.2 * torch.rand(scene.numel(), 1, 1, 3, generator=generator)
    # A steep alpha keeps dark cloth opaque, so the background only shows around the object.
    alpha = (brightness * 4).clamp(max=1)[..., None]
    span = torch.arange(OBJECT_SIZE)
    rows, columns = top[:, None] * PATCH_SIZE + span, left[:, None] * PATCH_SIZE + span
    where = (scene[:, None, None], slice(None), rows[:, :, None], columns[:, None, :])
    canvas[where] = canvas[where] * (1 - alpha) + (0.1 + 0.9 * brightness[..., None]) * tint * alpha

    cells = torch.full((num_scenes, CELL_GRID**2), NOTHING)
    cells[scene, cell] = labels
    patches = torch.full((num_scenes, PATCH_GRID, PATCH_GRID), NOTHING)
    for row, column in ((0, 0), (0, 1), (1, 0), (1, 1)):
        patches[scene, top + row, left + column] = labels
    return Scenes(canvas.mul_(255).round_().to(torch.uint8), cells, patches.flatten(1))


def make_scenes(split: str, num_scenes: int, seed: int, data: str | Path = DEFAULT_DATA) -> Scenes:
    """Scenes of one split; the same split, number and seed always give the same scenes."""
    pictures = load_pictures(split, data)
    generator = torch.Generator().manual_seed(seed)
    parts = [draw_scenes(pictures, min(64, num_scenes - start), generator) for start in range(0, num_scenes, 64)]
    return Scenes(*(torch.cat([getattr(part, name) for part in parts]) for name in ("images", "cells", "patches")))


def presence_text(topic: int) -> str:
    return f"Is there {SINGULAR[topic]}?"


def counting_text(topic: int) -> str:
    return f"How many {'objects' if topic == NOTHING else PLURAL[topic]} are there?"


def position_text(cell: int) -> str:
    return f"What is in row {cell // CELL_GRID + 1} column {cell % CELL_GRID + 1}?"


def object_text(topic: int) -> str:
    return "nothing" if topic == NOTHING else SINGULAR[topic]


def presence_questions(scenes: Scenes, num_questions: int, seed: int) -> list[Question]:
    """As many "yes" as "no" questions about every class, spread over the scenes; no question is asked twice."""
    rng = random.Random(seed)
    uses = [0] * len(scenes)
    questions = []
    for topic in range(NUM_CLASSES):
        pairs = num_questions // 2 // NUM_CLASSES + (topic < num_questions // 2 % NUM_CLASSES)
        present = (scenes.cells == topic).any(1).tolist()
        for answer in (True, False):
            candidates = [index for index in range(len(scenes)) if present[index] == answer]
            if len(candidates) < pairs:
                raise ValueError(f"{len(scenes)} scenes are too few for {num_questions} balanced presence questions")
            # Least used scenes first, ties broken by chance.
            candidates.sort(key=lambda index: (uses[index], rng.random()))
            for index in candidates[:pairs]:
                uses[index] += 1
                text = "yes" if answer else "no"
                questions.append(Question(index, "presence", presence_text(topic), text, topic))
    return questions


def position_questions(scenes: Scenes, num_questions: int, seed: int) -> list[Question]:
    """Half of the questions ask about a cell with an object, half about an empty one; scenes are taken in turn."""
    rng = random.Random(seed)
    questions = []
    for number in range(num_questions):
        index = number // 2 % len(scenes)
        cells = scenes.cells[index].tolist()
        cell = rng.choice([cell for cell, topic in enumerate(cells) if (topic == NOTHING) == bool(number % 2)])
        questions.append(Question(index, "position", position_text(cell), object_text(cells[cell]), cells[cell]))
    return questions


def counting_questions(scenes: Scenes, num_questions: int, seed: int) -> list[Question]:
    """A third asks for all objects, a third for a class that is there, a third for any class."""
    rng = random.Random(seed)
    questions = []
    for number in range(num_questions):
        index = number % len(scenes)
        cells = [topic for topic in scenes.cells[index].tolist() if topic != NOTHING]
        topic = (NOTHING, rng.choice(cells), rng.randrange(NUM_CLASSES))[number % 3]
        answer = len(cells) if topic == NOTHING else cells.count(topic)
        questions.append(Question(index, "counting", counting_text(topic), str(answer), topic))
    return questions
