# SPDX-License-Identifier: Apache-2.0
"""Max-min diversity of many tokens from a fraction of their distances: the picks of `max_min.py`, for long videos.

A minimum over some distances is an upper bound of the minimum over all. Tokens whose bound is below a value that is
known for certain need no further look:

- for the first pick, tokens leave the race when another token is nearer than the nearest one of the best so far;
- for later picks, the tokens with the largest bounds are candidates. They are picked from by their own distances, as
  long as the best of them is ahead of all bounds outside. Then one product brings all bounds up to date.

Values are read between the steps, which is free on a CPU. A GPU would wait: there `max_min_long.py` does without.
"""

import math
from typing import NamedTuple

import torch

from .fast_distances import (
    SMALL,
    distance_dtype,
    far_from_the_ends,
    matrix_product_,
    row_scale,
    row_statistics,
    to_distances_,
)


# Rows of a block that is copied or scaled: 16 MB at a width of 4096. Rows that can be multiplied where they are.
ROWS_PER_BLOCK, ROWS_IN_PLACE = 1024, 16384
# Parts of the tokens with which the others are compared one after another, for the first pick.
NUM_PARTS = 16
# Tokens that are compared with all others after the first part.
NUM_CERTAIN = 64
# The share of tokens that may still be in the race then. Where more are, nearest ones are found block by block.
LARGEST_RACE = 0.85
# Tokens that later picks are made from, between two updates of all tokens.
NUM_CANDIDATES = 384


class Rows(NamedTuple):
    """Some rows, ready to be compared: `num_rows` of them, and repetitions of them up to `SMALL`."""

    num_rows: int
    features: torch.Tensor
    inverse_norm: torch.Tensor
    is_zero: torch.Tensor


class AllRows:
    """All rows of an image or video, from which some are chosen and compared; distances as in `fast_distances.py`.

    Args:
        features (`torch.Tensor` of shape `(M, D)`).
        weights (`torch.Tensor` of shape `(M,)`, *optional*): what distances to each row are multiplied by; not
            negative.

    Attributes:
        ceiling (`torch.Tensor` of shape `(M,)`): Inf; -1, which is below every distance, for rows with NaN or Inf.
    """

    def __init__(self, features: torch.Tensor, weights: torch.Tensor | None = None) -> None:
        self.features, self.weights, self.dtype = features, weights, distance_dtype(features)
        self.scale: torch.Tensor | None = None
        squared_norms = self._squared_norms()
        if not far_from_the_ends(squared_norms):
            self.scale = row_scale(features, self.dtype)
            squared_norms = self._squared_norms()
        self.inverse_norm, self.is_zero, self.ceiling = row_statistics(squared_norms)

    def __len__(self) -> int:
        return len(self.features)

    def choose(self, index: slice | torch.Tensor) -> Rows:
        """Return the rows of a slice, or those with given numbers."""
        count = len(self.inverse_norm[index])
        if isinstance(index, torch.Tensor) and count < SMALL <= len(self):  # smaller products are summed otherwise
            index = index.repeat(-(-SMALL // count))[:SMALL]
        return Rows(count, self._scaled(index), self.inverse_norm[index], self.is_zero[index])

    def blocks(self, rows_per_block: int | None = None) -> list[slice]:
        """Return slices that hold all rows, of about equal length; by default as long as memory allows."""
        is_in_place = self.scale is None and self.features.dtype == self.dtype
        num_blocks = -(-len(self) // (rows_per_block or (ROWS_IN_PLACE if is_in_place else ROWS_PER_BLOCK)))
        edges = [len(self) * block // num_blocks for block in range(num_blocks + 1)]
        return [slice(edges[block], edges[block + 1]) for block in range(num_blocks)]

    def weighed(self, distances: torch.Tensor, index: slice | torch.Tensor) -> torch.Tensor:
        """Return distances times the weights of the rows that their last dimension stands for; Inf stays Inf."""
        if self.weights is None:
            return distances
        return (distances * self.weights[index]).masked_fill_(distances == math.inf, math.inf)

    def _scaled(self, index: slice | torch.Tensor) -> torch.Tensor:
        # Several times as fast as indexing.
        rows = self.features[index] if isinstance(index, slice) else self.features.index_select(0, index)
        rows = rows.to(self.dtype)
        return rows if self.scale is None else rows * self.scale[index].unsqueeze(1)

    def _squared_norms(self) -> torch.Tensor:
        """Return the product of each row with itself, summed as products of different rows are."""
        norms = torch.empty(len(self), dtype=self.dtype)
        num_blocks = max(1, len(self) // SMALL)
        for number in range(num_blocks):
            block = slice(len(self) * number // num_blocks, len(self) * (number + 1) // num_blocks)
            rows = self._scaled(block)
            norms[block] = matrix_product_(rows.new_empty(len(rows), len(rows)), rows, rows).diagonal()
        return norms


def distances_between(left: Rows, right: Rows) -> torch.Tensor:
    """Return the distances between two choices of rows, of shape `(left.num_rows, right.num_rows)`."""
    block = left.features.new_empty(len(left.features), len(right.features))
    matrix_product_(block, left.features, right.features)
    to_distances_(block, left.inverse_norm, right.inverse_norm, left.is_zero, right.is_zero)
    return block[: left.num_rows, : right.num_rows]


def pick_lazily(features: torch.Tensor, num_kept: int, weights: torch.Tensor | None = None) -> torch.Tensor:
    """Pick the most diverse rows by greedy max-min cosine distance, from the distances that this needs.

    Args:
        features (`torch.Tensor` of shape `(M, D)`): on a CPU.
        num_kept (`int`): how many rows to pick, at most M.
        weights (`torch.Tensor` of shape `(M,)`, *optional*): what each row's smallest distance is multiplied by before
            the largest product is picked; not negative.

    Returns:
        `torch.LongTensor` of shape `(num_kept,)`, in the order of picking. Where distances are exact the picks are
        those from the full matrix; elsewhere the first one to differ is as far as the other to within rounding (1e-6).
    """
    rows = AllRows(features, weights)
    picks = new = first_pick(rows)
    bound = rows.ceiling.clone()
    while len(picks) < num_kept:
        some = rows.choose(new)
        for block in rows.blocks():
            distances = distances_between(some, rows.choose(block)).amin(dim=0)
            bound[block] = torch.minimum(bound[block], rows.weighed(distances, block))
        bound[new] = -math.inf
        new = picks_among_candidates(rows, bound, num_kept - len(picks))
        picks = torch.cat([picks, new])
    return picks


def first_pick(rows: AllRows) -> torch.Tensor:
    """Return the row that is farthest from its nearest other one, the lowest of several; of shape `(1,)`."""
    num_parts = max(1, min(NUM_PARTS, len(rows) // SMALL))
    bound, racing = rows.ceiling.clone(), torch.arange(len(rows))
    best, value = len(rows), -math.inf
    for part in range(num_parts):
        # Every so many rows: neighbours in the picture, which are near, are in different parts.
        others = torch.arange(part, len(rows), num_parts)
        some = rows.choose(others)
        for index in racing.split(ROWS_PER_BLOCK):
            lower_bound_(bound, rows, index, others, some)
        if part == 0:
            certain = largest(bound, NUM_CERTAIN)
            for block in rows.blocks():
                others = torch.arange(block.start, block.stop)
                lower_bound_(bound, rows, certain, others, rows.choose(block))
            best = int(certain[bound[certain].argmax()])
            value = float(bound[best])
        racing = racing[(bound[racing] > value) | ((bound[racing] == value) & (racing < best))]
        if not len(racing):
            return torch.tensor([best])
        if part == 0 and len(racing) > LARGEST_RACE * len(rows):
            return torch.minimum(rows.weighed(nearest_of_all(rows), slice(None)), rows.ceiling).argmax().unsqueeze(0)
    return racing[bound[racing].argmax()].unsqueeze(0)


def nearest_of_all(rows: AllRows) -> torch.Tensor:
    """Return each row's distance to its nearest other row, `(M,)`, from half of all distances, block by block."""
    nearest, blocks = torch.full_like(rows.ceiling, math.inf), rows.blocks(ROWS_PER_BLOCK)
    for number, index in enumerate(blocks):
        some = rows.choose(index)
        for others in blocks[: number + 1]:
            distances = distances_between(some, rows.choose(others))
            if others == index:
                distances.fill_diagonal_(math.inf)
            nearest[index] = torch.minimum(nearest[index], distances.amin(dim=1))
            nearest[others] = torch.minimum(nearest[others], distances.amin(dim=0))
    return nearest


def lower_bound_(bound: torch.Tensor, rows: AllRows, index: torch.Tensor, others: torch.Tensor, some: Rows) -> None:
    """Lower the bounds of rows by their distances to others, `some`; none is another of itself."""
    distances = distances_between(some, rows.choose(index))
    distances.masked_fill_(others.unsqueeze(1) == index, math.inf)
    bound[index] = torch.minimum(bound[index], rows.weighed(distances.amin(dim=0), index))


def picks_among_candidates(rows: AllRows, bound: torch.Tensor, num_picks: int) -> torch.Tensor:
    """Return the next picks, at least one and at most `num_picks`, as far as bounds tell them.

    Args:
        rows: all rows.
        bound: of each row its smallest distance to the picked ones, times its weight; -Inf for picked rows, `(M,)`.
        num_picks: how many are still to be picked.
    """
    candidates = largest(bound, NUM_CANDIDATES)
    outside = bound.index_fill(0, candidates, -math.inf)
    first_outside = int(outside.argmax())
    limit = float(outside[first_outside])
    some, current = rows.choose(candidates), bound[candidates]
    between = rows.weighed(distances_between(some, some), candidates)
    picked: list[int] = []
    while len(picked) < num_picks:
        best = int(current.argmax())
        value = float(current[best])
        if value < limit or (value == limit and first_outside < int(candidates[best])):
            break
        picked.append(best)
        torch.minimum(current, between[best], out=current)
        current[best] = -math.inf
    return candidates[picked]


def largest(values: torch.Tensor, num: int) -> torch.Tensor:
    """Return the indices of the largest values, ascending; of equal values at the limit the lowest."""
    return values.sort(descending=True, stable=True).indices[:num].sort().values
