"""A variant with random weights of a true shape, for servers, which read a folder."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch

from divprune_hf.benchmarks.models import build_models
from divprune_hf.benchmarks.shapes import SHAPES
from divprune_hf.common.pocket_llava import pocket_llava
from divprune_hf.publishing.convert import convert_checkpoint


def read_json(path: Path) -> dict[str, Any]:
    """Return the content of one of pocket-llava's files."""
    return json.loads(path.read_text(encoding="utf-8"))


def write_random_variant(shape: str, folder: Path) -> Path:
    """Write a variant of a shape below `folder`, with the tokenizer of pocket-llava; return its folder.

    Raises:
        ValueError: a shape of another family than LLaVA-1.5's.
    """
    sizes = SHAPES[shape]
    if sizes.family != "llava":
        raise ValueError(f"Got shape {shape!r} of {sizes.family}, expected one of llava, such as tiny-cpu.")
    stock, _ = build_models(sizes, torch.device("cpu"), torch.float32)
    of_tokenizer = read_json(pocket_llava() / "config.json")
    stock.config.image_token_id = of_tokenizer.get("image_token_id", of_tokenizer.get("image_token_index"))
    base = folder / "base"
    stock.save_pretrained(base)
    vision = stock.config.vision_config
    for path in pocket_llava().iterdir():
        if path.is_file() and not (base / path.name).exists() and path.suffix in (".json", ".jinja"):
            shutil.copyfile(path, base / path.name)
    pixels = vision.image_size
    sizes_of_files: dict[str, dict[str, Any]] = {
        "preprocessor_config.json": {
            "size": {"shortest_edge": pixels},
            "crop_size": {"height": pixels, "width": pixels},
        },
        "processor_config.json": {"patch_size": vision.patch_size},
    }
    for name, edited in sizes_of_files.items():
        (base / name).write_text(json.dumps({**read_json(base / name), **edited}), encoding="utf-8")
    return convert_checkpoint(base, folder / "variant", link=True)
