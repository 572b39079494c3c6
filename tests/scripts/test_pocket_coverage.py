"""The script `coverage.py`: its shares against a count patch by patch; DivPrune sees nearly every object."""

from pathlib import Path

import pytest
import torch

from scripts.training.pocket_llava.scenes import CELL_GRID, CELL_PATCHES, DEFAULT_DATA, NOTHING, PATCH_GRID, make_scenes


pytestmark = pytest.mark.skipif(
    not Path(DEFAULT_DATA).is_dir(), reason="Debian's dataset-fashion-mnist is not installed"
)


def test_an_object_is_seen_if_one_of_its_patches_is_kept():
    from scripts.training.pocket_llava.coverage import coverage

    scenes = make_scenes("heldout", 6, seed=4)
    kept = torch.rand(6, PATCH_GRID**2, generator=torch.Generator().manual_seed(0)) < 0.2
    seen = objects = on_objects = 0
    for scene in range(6):
        for cell in range(CELL_GRID**2):
            top, left = (CELL_PATCHES * part for part in divmod(cell, CELL_GRID))
            patches = [(top + r) * PATCH_GRID + left + c for r in range(CELL_PATCHES) for c in range(CELL_PATCHES)]
            shown = [patch for patch in patches if scenes.patches[scene, patch] != NOTHING]
            assert len(shown) in (0, 4)
            objects += bool(shown)
            seen += any(kept[scene, patch] for patch in shown)
            on_objects += sum(bool(kept[scene, patch]) for patch in shown)
    assert coverage(scenes, kept) == pytest.approx((seen / objects, on_objects / kept.sum().item()))


def test_divprune_sees_nearly_every_object(capsys):
    from scripts.training.pocket_llava.coverage import main

    assert main(["--scenes", "30"]) == 0
    rows = dict(line.strip("| ").split(" | ", 1) for line in capsys.readouterr().out.splitlines()[2:])
    shares = {name: float(cells.split("%")[0]) for name, cells in rows.items()}
    assert shares["max_min"] > 95 and shares["random"] < 50 and shares["uniform"] < 55
    assert main(["--budget", "none"]) == 2 and "budget 'none'" in capsys.readouterr().err
