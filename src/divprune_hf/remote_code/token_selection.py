# SPDX-License-Identifier: Apache-2.0
"""All features of each image or video -> how many of them are kept, and which."""

from typing import Any

import torch
from transformers import PretrainedConfig

from .baseline_selectors import select_baseline_tokens
from .max_min_diversity import select_diverse_tokens_of_images
from .prompt_counts import Modality
from .token_budget import keep_count


def feature_list(outputs: Any) -> list[torch.Tensor]:
    """The features of each image or video, (M, width): transformers 4.57 returns them bare, 5 in an output.

    A video comes as (frames, M / frames, width) where it was not flattened yet.
    """
    bare = isinstance(outputs, (list, tuple))
    return [features.flatten(0, -2) for features in (outputs if bare else outputs.pooler_output)]


def kept_counts(
    config: PretrainedConfig, modality: Modality, available: list[int], counts: list[int] | None
) -> list[int]:
    """How many visual tokens (K) of each image or video are kept: as told, or else by the config's budget.

    Args:
        config: the model's; `divprune_config` is read where `counts` is None.
        modality: `IMAGE` or `VIDEO`.
        available: how many visual tokens (M) each of them has.
        counts: what the processor said.

    Raises:
        ValueError: not one count for each, or more than there are.
    """
    if counts is None:
        budget = getattr(config.divprune_config, modality.budget)
        return [keep_count(num_available, **budget) for num_available in available]
    if len(counts) != len(available) or any(kept > num_available for kept, num_available in zip(counts, available)):
        raise ValueError(
            f"Got {modality.counts}={counts} for {modality.name}s of {available} visual tokens, expected one count "
            f"per {modality.name}, at most the visual tokens of the {modality.name}."
        )
    return counts


def select_tokens(
    config: PretrainedConfig, all_features: list[torch.Tensor], counts: list[int], pixels: Any, image_sizes: Any
) -> list[torch.Tensor | None]:
    """The indices to keep of each image or video, all at once; None where everything is kept."""
    settings = config.divprune_config
    if settings.selector != "max_min":
        return select_baseline_tokens(config, pixels, image_sizes, all_features, counts)
    pruned = [i for i, features in enumerate(all_features) if counts[i] < len(features)]
    if not pruned:
        return [None] * len(counts)
    features, budgets = [all_features[i] for i in pruned], [counts[i] for i in pruned]
    picks = dict(zip(pruned, select_diverse_tokens_of_images(features, budgets, settings.order)))
    return [picks.get(i) for i in range(len(counts))]
