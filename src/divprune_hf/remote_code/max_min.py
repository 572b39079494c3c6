# SPDX-License-Identifier: Apache-2.0
"""DivPrune in one file: keep the `num_kept` most diverse of an image's visual tokens.

Greedy max-min diversity (DivPrune, arXiv 2503.02175, section 3). With the distance d(a, b) = 1 - cos(a, b):

1. the first pick is the token whose distance to its nearest other token is largest;
2. then, until `num_kept` are picked: the token whose smallest distance to the picked ones is largest.

The paper calls this the exact solution of the max-min diversity problem. It is the greedy farthest-first heuristic,
which comes within a factor of two of it. Nothing is trained and nothing is calibrated.

Models run `max_min_fast.py`, which makes the same picks for whole batches; the tests compare it with this file.
"""

import torch


# Distances below this are rounding noise of a float32 product, and count as 0: duplicates tie.
NOISE = 2.0**-20


def pick_max_min(features: torch.Tensor, num_kept: int) -> torch.Tensor:
    """Pick the `num_kept` most diverse rows of `features`.

    Args:
        features (`torch.Tensor` of shape `(M, D)`, floating point): the visual tokens of one image or video.
        num_kept (`int`): K, how many to pick, from 1 to M.

    Returns:
        `torch.LongTensor` of shape `(num_kept,)`: distinct indices in the order of picking. Ties go to the lowest
        index. Rows with NaN or Inf are picked last.
    """
    distances = cosine_distances(features)
    is_bad = distances.isnan().all(dim=1)  # rows with NaN or Inf
    distances = distances.nan_to_num(nan=torch.inf).fill_diagonal_(torch.inf)
    nearest = distances.amin(dim=1).masked_fill(is_bad, -1)  # to the nearest other token
    smallest = torch.full_like(nearest, torch.inf).masked_fill(is_bad, -1)  # to the picked tokens
    picks = [nearest.argmax()]
    while len(picks) < num_kept:
        smallest = torch.minimum(smallest, distances[picks[-1]])
        smallest[picks[-1]] = -torch.inf  # never picked again
        picks.append(smallest.argmax())
    return torch.stack(picks)


def cosine_distances(features: torch.Tensor) -> torch.Tensor:
    """Compute 1 - cos between all rows.

    Args:
        features (`torch.Tensor` of shape `(M, D)`, floating point).

    Returns:
        `torch.Tensor` of shape `(M, M)`, float64: NaN in the rows and columns of rows with NaN or Inf. A zero row is at
        distance 0 of zero rows and 1 of all others.
    """
    rows = features.double()
    rows = rows / rows.abs().amax(dim=1, keepdim=True).clamp(min=torch.finfo(rows.dtype).tiny)  # no square overflows
    norms = rows.norm(dim=1, keepdim=True)
    rows = rows / norms.clamp(min=torch.finfo(rows.dtype).tiny)
    is_zero = norms == 0
    distances = 1 - rows @ rows.T - (is_zero & is_zero.T).double()
    return torch.where(distances < NOISE, 0, distances)
