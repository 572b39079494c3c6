# SPDX-License-Identifier: Apache-2.0
"""The selectors as a table: how the kept tokens of an image are chosen. A new one is one entry here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Images:
    """What a selector may look at, of images (or videos) of which less than everything is kept.

    Args:
        features: of each image, its visual tokens, `(M, width)`.
        counts: of each image, how many tokens to pick (K, less than M).
        pixels: of each image, what the vision tower saw, `(..., channels, height, width)`.
        order: `"raster"` for ascending picks, `"selection"` for the order of picking.
        seed: what a selector that draws draws by, besides the pixels.
    """

    features: list[torch.Tensor]
    counts: list[int]
    pixels: Sequence[torch.Tensor]
    order: str
    seed: int


@dataclass(frozen=True)
class Selector:
    """One way to choose tokens.

    Args:
        pick: returns a `torch.LongTensor` of shape `(K,)` per image, on the device of its features, without reading
            anything on the host.
        label: its name in figures.
        sentence: what a model card says is kept.
        uses_seed: whether `seed` has an effect.
    """

    pick: Callable[[Images], list[torch.Tensor]]
    label: str
    sentence: str
    uses_seed: bool = False


# The files of the selectors are imported where they are called: configs and commands read names alone.


def pick_max_min(images: Images) -> list[torch.Tensor]:
    """Pick the most diverse tokens of each image; see `max_min.py`."""
    from .max_min_fast import select_diverse_tokens_of_images

    return select_diverse_tokens_of_images(images.features, images.counts, images.order)


def pick_random(images: Images) -> list[torch.Tensor]:
    """Draw tokens of each image; see `baseline_selectors.py`."""
    from .baseline_selectors import random_picks

    return random_picks(images)


def pick_uniform(images: Images) -> list[torch.Tensor]:
    """Pick every M/K-th token of each image; see `baseline_selectors.py`."""
    from .baseline_selectors import uniform_picks

    return uniform_picks(images)


SELECTORS = {
    "max_min": Selector(
        pick_max_min,
        label="DivPrune (max_min)",
        sentence="the most diverse ones (DivPrune, CVPR 2025:\ngreedy max-min cosine distance)",
    ),
    "random": Selector(
        pick_random,
        label="random",
        sentence="drawn at random\n(a baseline to compare DivPrune with)",
        uses_seed=True,
    ),
    "uniform": Selector(
        pick_uniform,
        label="uniform",
        sentence="evenly spaced ones\n(a baseline to compare DivPrune with)",
    ),
}
LARGEST_SEED = 2**32 - 1


def selector_named(name: str) -> Selector:
    """The entry of `SELECTORS`; a `ValueError` where there is none."""
    if name not in SELECTORS:
        raise ValueError(
            f"Got selector={name!r}, expected one of {tuple(SELECTORS)}: DivPrune, or a baseline to compare it with."
        )
    return SELECTORS[name]


def check_selector(selector: str, seed: int) -> None:
    """Raise a `ValueError` unless `selector` is one of `SELECTORS` and `seed` an integer of 32 bits."""
    selector_named(selector)
    if not isinstance(seed, Integral) or isinstance(seed, bool) or not 0 <= seed <= LARGEST_SEED:
        raise ValueError(
            f"Got seed={seed!r}, expected an integer from 0 to {LARGEST_SEED}: what the random selector draws by."
        )
