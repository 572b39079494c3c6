# SPDX-License-Identifier: Apache-2.0
"""Centred max-min in one file: diverse visual tokens that are also unlike the image as a whole.

Max-min diversity (`max_min.py`) with two changes, as Cen-Prune (preprint, 2026) tells them:

1. distances are between the tokens less their mean: d(a, b) = 1 - cos(a - mean, b - mean). What all tokens of an image
   share no longer hides how they differ;
2. a token's smallest distance counts as much as the token is distinct: it is multiplied by a weight from 0, for the
   token that is on average most like the others (cosine, not centred), to 1, for the one that is least.

Without the second, centring keeps too many tokens of the background, and answers get worse. Nothing is trained and
nothing is calibrated.

Models run `centered_fast.py`, which makes the same picks at the cost of max-min; the tests compare it with this file.
"""

import torch

from .max_min import NOISE, cosine_distances


def pick_centered(features: torch.Tensor, num_kept: int) -> torch.Tensor:
    """Pick `num_kept` rows of `features` that are diverse and distinct.

    Args:
        features (`torch.Tensor` of shape `(M, D)`, floating point): the visual tokens of one image or video.
        num_kept (`int`): K, how many to pick, from 1 to M.

    Returns:
        `torch.LongTensor` of shape `(num_kept,)`: distinct indices in the order of picking. Ties go to the lowest
        index. Rows with NaN or Inf are picked last.
    """
    rows = features.double()
    is_bad = ~rows.isfinite().all(dim=1)
    exponent = torch.frexp(rows.masked_fill(is_bad.unsqueeze(1), 0).abs().amax()).exponent
    rows = torch.ldexp(rows, -exponent)  # no square overflows
    weights = distinctiveness(rows, is_bad)
    distances = cosine_distances(rows - rows[~is_bad].mean(dim=0))
    distances = distances.nan_to_num(nan=torch.inf).fill_diagonal_(torch.inf)
    nearest = (distances.amin(dim=1) * weights).masked_fill(is_bad, -1)  # to the nearest other token
    smallest = torch.full_like(weights, torch.inf).masked_fill(is_bad, -1)  # to the picked tokens
    picks = [nearest.argmax()]
    while len(picks) < num_kept:
        smallest = torch.minimum(smallest, torch.where(is_bad, torch.inf, distances[picks[-1]] * weights))
        smallest[picks[-1]] = -torch.inf  # never picked again
        picks.append(smallest.argmax())
    return torch.stack(picks)


def distinctiveness(rows: torch.Tensor, is_bad: torch.Tensor) -> torch.Tensor:
    """Return how little each row is like the others on average, from 0 (most) to 1 (least), `(M,)`.

    Rows that are all alike get 1. A zero row is like none.
    """
    directions = torch.nn.functional.normalize(rows, dim=1, eps=torch.finfo(rows.dtype).tiny)
    directions = directions.masked_fill(is_bad.unsqueeze(1), 0)
    likeness = directions @ directions.sum(dim=0) / len(rows)
    low = likeness.masked_fill(is_bad, torch.inf).amin()
    high = likeness.masked_fill(is_bad, -torch.inf).amax()
    if not high - low >= NOISE:
        return torch.ones_like(likeness)
    return ((high - likeness) / (high - low)).masked_fill(is_bad, 1)
