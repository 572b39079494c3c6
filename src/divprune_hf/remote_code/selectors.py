# SPDX-License-Identifier: Apache-2.0
"""The selectors as a table: how the kept tokens of an image are chosen. A new one is one entry here."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Images:
    """The view of a selector on images (or videos) of which less than everything is kept.

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
        function: its place, `"file.function"`, in this folder. It takes `Images` and returns a `torch.LongTensor` of
            shape `(K,)` per image, on the device of its features, without reading anything on the host. It is named
            and not imported: configs and commands read names alone, and transformers 4.57 ships no more with them.
        label: its name in figures.
        sentence: what a model card says is kept.
        uses_seed: whether `seed` has an effect.
    """

    function: str
    label: str
    sentence: str
    uses_seed: bool = False

    def load(self) -> Callable[[Images], list[torch.Tensor]]:
        """Import the function that chooses the tokens of each image."""
        file, function = self.function.split(".")
        return getattr(importlib.import_module(f".{file}", __package__), function)


SELECTORS = {
    "max_min": Selector(
        "max_min_fast.max_min_picks",
        label="DivPrune (max_min)",
        sentence="the most diverse ones (DivPrune, CVPR 2025:\ngreedy max-min cosine distance)",
    ),
    "centered": Selector(
        "centered_fast.centered_picks",
        label="centred max-min",
        sentence="the most diverse ones that are also\ndistinct from the picture as a whole (centred max-min)",
    ),
    "random": Selector(
        "baseline_selectors.random_picks",
        label="random",
        sentence="drawn at random\n(a baseline to compare DivPrune with)",
        uses_seed=True,
    ),
    "uniform": Selector(
        "baseline_selectors.uniform_picks",
        label="uniform",
        sentence="evenly spaced ones\n(a baseline to compare DivPrune with)",
    ),
}


def selector_named(name: str) -> Selector:
    """The entry of `SELECTORS`; a `ValueError` where there is none."""
    if name not in SELECTORS:
        raise ValueError(
            f"Got selector={name!r}, expected one of {tuple(SELECTORS)}: DivPrune, centred max-min, or a baseline."
        )
    return SELECTORS[name]
