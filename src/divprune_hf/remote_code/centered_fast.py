# SPDX-License-Identifier: Apache-2.0
"""The picks of `centered.py` by the machinery of `max_min_fast.py`: tokens less their mean, and a weight for each."""

import math
from typing import Any

import torch

from .fast_distances import distance_dtype, far_from_the_ends, may_be_read
from .max_min import NOISE
from .max_min_fast import select_diverse_tokens_of_images
from .selectors import Images


def centered_picks(images: Images) -> list[torch.Tensor]:
    """Pick the diverse and distinct tokens of each image: the selector `centered`."""
    return select_diverse_tokens_of_images(images.features, images.counts, images.order, centred_and_weights)


def centred_and_weights(features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the tokens of an image less their mean, `(M, D)`, and how distinct each is, from 0 to 1, `(M,)`.

    Both are float32 or better, under autocast too. Rows with NaN or Inf stay so, take no part in the mean, and have the
    weight 1. Nothing is read but on a CPU, where usual features are told from those that need care.
    """
    with torch.autocast(features.device.type, enabled=False):
        rows = features.to(distance_dtype(features))
        norms = torch.linalg.vector_norm(rows, dim=1)
        if may_be_read(rows) and far_from_the_ends(norms * norms):
            return centred_finite(rows, 1 / norms, len(rows))
        is_good = torch.isfinite(rows).all(dim=1)
        known = rows.masked_fill(~is_good.unsqueeze(1), 0)
        # Exact: by a power of two, so that no sum or square over- or underflows.
        exponent = torch.frexp(known.abs().amax()).exponent.clamp(min=-126)
        known = torch.ldexp(known, -exponent)
        norms = torch.linalg.vector_norm(known, dim=1)
        centred, weights = centred_finite(
            known, torch.where(norms > 0, 1 / norms, 0), is_good.sum().clamp(min=1), is_good
        )
        return torch.where(is_good.unsqueeze(1), centred, math.nan), weights


def centred_finite(
    rows: torch.Tensor, inverse_norms: torch.Tensor, num_good: Any, is_good: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the same for finite rows, of which those that are not good are zero."""
    mean, direction = torch.stack([torch.ones_like(inverse_norms), inverse_norms]) @ rows
    likeness = rows @ (direction / len(rows)) * inverse_norms
    return rows - mean / num_good, distinctiveness(likeness, is_good)


def distinctiveness(likeness: torch.Tensor, is_good: torch.Tensor | None = None) -> torch.Tensor:
    """Return 0 for the row that is most like the others on average, and 1 for the one that is least; `(M,)`.

    Rows that are all alike, and those that are not good, have 1.
    """
    good = likeness if is_good is None else likeness.masked_fill(~is_good, math.inf)
    low = good.amin()
    high = (likeness if is_good is None else likeness.masked_fill(~is_good, -math.inf)).amax()
    weights = (high - likeness) / (high - low)
    weights = torch.where(high - low >= NOISE, weights, 1)
    return weights if is_good is None else weights.masked_fill(~is_good, 1)
