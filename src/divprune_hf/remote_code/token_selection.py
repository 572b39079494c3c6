# SPDX-License-Identifier: Apache-2.0
"""The selection: how many features of each image or video are kept, and which."""

from typing import Any

import torch
from transformers import PretrainedConfig

from .budget import keep_count
from .image_views import num_views_of_images
from .prompt_counts import Modality
from .selectors import SELECTORS, Images, selector_named


# Imported once, and not in a call, which torch.compile could not trace.
PICK = {name: selector.load() for name, selector in SELECTORS.items()}


class Flattened(list[torch.Tensor]):
    """The features of each input, (K, width), where stock code expects one tensor of equally many, and flattens it."""

    def flatten(self, *dims: int) -> torch.Tensor:
        """Return the features of all inputs, one after another."""
        return torch.cat(self)


def feature_list(outputs: Any) -> list[torch.Tensor]:
    """Return the features of each image or video, (M, width): transformers 4.57 returns them bare, 5 in an output.

    A video comes as (frames, M / frames, width) where it was not flattened yet.
    """
    bare = isinstance(outputs, (list, tuple))
    return [features.flatten(0, -2) for features in (outputs if bare else outputs.pooler_output)]


def kept_counts(
    config: PretrainedConfig, modality: Modality, num_available: list[int], counts: list[int] | None
) -> list[int]:
    """Return how many visual tokens (K) of each image or video are kept: as told, or else by the config's budget.

    Args:
        config: the model's; `divprune_config` is read where `counts` is None.
        modality: `IMAGE` or `VIDEO`.
        num_available: how many visual tokens (M) each of them has.
        counts: what the processor said.

    Raises:
        ValueError: not one count for each, or more than there are.
    """
    if counts is None:
        budget = getattr(config.divprune_config, modality.budget)
        return [keep_count(available, **budget) for available in num_available]
    if len(counts) != len(num_available) or any(kept > available for kept, available in zip(counts, num_available)):
        raise ValueError(
            f"Got {modality.counts}={counts} for {modality.name}s of {num_available} visual tokens, expected one count "
            f"per {modality.name}, at most the visual tokens of the {modality.name}."
        )
    return counts


def select_tokens(
    config: PretrainedConfig, all_features: list[torch.Tensor], counts: list[int], pixels: Any, image_sizes: Any
) -> list[torch.Tensor | None]:
    """Return the picks of each image or video, made for all at once; None where everything is kept.

    Args:
        config: the model's; `selector`, `seed` and `order` of its `divprune_config` are read.
        all_features: of each image, its visual tokens, `(M, width)`.
        counts: of each image, how many are kept.
        pixels: one row per image or video, or the views of all images one after another.
        image_sizes: (height, width) of LLaVA-NeXT's pictures, which say where the views of the next image begin.
    """
    settings = config.divprune_config
    pick = PICK.get(settings.selector) or selector_named(settings.selector).load()
    if image_sizes is not None and pixels.dim() == 4:
        pixels = pixels.split(num_views_of_images(config, image_sizes))
    pruned = [i for i, features in enumerate(all_features) if counts[i] < len(features)]
    if not pruned:
        return [None] * len(counts)
    images = Images(
        features=[all_features[i] for i in pruned],
        counts=[counts[i] for i in pruned],
        pixels=[pixels[i] for i in pruned],
        order=settings.order,
        seed=settings.seed,
    )
    picks_of = dict(zip(pruned, pick(images)))
    return [picks_of.get(i) for i in range(len(counts))]
