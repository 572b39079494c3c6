"""The share of the objects in pocket-llava's held-out scenes that the kept tokens show.

    python -m scripts.training.pocket_llava.coverage [--budget 0.098] [--scenes 500]

The scenes are drawn again from Fashion-MNIST, because their plans (which patch shows what) are not in the held-out set.
An object is seen if one of its four patches is kept.
"""

import argparse
import sys
from pathlib import Path

import torch
import transformers

from divprune_hf.common.markdown import markdown_row, markdown_table
from divprune_hf.common.pocket_llava import pocket_llava
from divprune_hf.common.printable import one_line
from divprune_hf.evaluation.answers import apply_setting
from divprune_hf.evaluation.settings import Setting, parse_budget
from divprune_hf.inference.loading import load_pruned
from divprune_hf.remote_code.selectors import SELECTORS
from scripts.training.pocket_llava.heldout import NUM_SCENES, SEED
from scripts.training.pocket_llava.scenes import (
    CELL_GRID,
    CELL_PATCHES,
    DEFAULT_DATA,
    NOTHING,
    PATCH_GRID,
    Scenes,
    make_scenes,
)
from scripts.training.pocket_llava.scoring import pictures_of


BATCH = 25


def by_cell(patches: torch.Tensor) -> torch.Tensor:
    """Return the values of 256 patches as (scenes, 16 cells, 16 patches of the cell)."""
    grid = patches.view(-1, CELL_GRID, CELL_PATCHES, CELL_GRID, CELL_PATCHES)
    return grid.permute(0, 1, 3, 2, 4).reshape(len(patches), CELL_GRID**2, CELL_PATCHES**2)


def coverage(scenes: Scenes, kept: torch.Tensor) -> tuple[float, float]:
    """Return the share of objects that are seen, and the share of kept tokens that lie on an object.

    Args:
        scenes: the scenes with their plans.
        kept (`torch.BoolTensor` of shape `(scenes, 256)`): which patches are kept.
    """
    on_object = scenes.patches != NOTHING
    seen = by_cell(kept & on_object).any(2)
    objects = scenes.cells != NOTHING
    return (seen & objects).sum().item() / objects.sum().item(), (kept & on_object).sum().item() / kept.sum().item()


def kept_patches(model, processor, scenes: Scenes, setting: Setting) -> torch.Tensor:
    """Return which patches of each scene are kept: `torch.BoolTensor` of shape `(scenes, 256)`."""
    apply_setting(model, processor, setting)
    kept = torch.zeros(len(scenes), PATCH_GRID**2, dtype=torch.bool)
    pictures = pictures_of(scenes)
    for start in range(0, len(pictures), BATCH):
        batch = pictures[start : start + BATCH]
        inputs = processor(images=batch, text=[processor.image_token] * len(batch), return_tensors="pt")
        counts = inputs["num_image_tokens_kept"]
        picks = model.select_image_tokens(inputs["pixel_values"], num_image_tokens_kept=counts)
        for number, indices in enumerate(picks, start=start):
            kept[number, indices] = True
    return kept


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--budget", default="0.098", metavar="B", help="a share (0.098) or a number of tokens (25)")
    parser.add_argument("--scenes", type=int, default=NUM_SCENES, metavar="N", help=f"how many scenes ({NUM_SCENES})")
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA, help="folder with the four Fashion-MNIST .gz files")
    options = parser.parse_args(arguments)
    transformers.logging.set_verbosity_error()
    try:
        settings = [
            Setting(name, parse_budget(options.budget), 0 if s.uses_seed else None) for name, s in SELECTORS.items()
        ]
        scenes = make_scenes("heldout", options.scenes, SEED, options.data)
        model, processor = load_pruned(pocket_llava(), device="cpu")
    except (ValueError, OSError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 2
    print(markdown_table(["selector", "objects seen", "kept tokens on objects"]))
    for setting in settings:
        seen, on_objects = coverage(scenes, kept_patches(model, processor, scenes, setting))
        print(markdown_row([setting.selector, f"{seen:.1%}", f"{on_objects:.1%}"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
