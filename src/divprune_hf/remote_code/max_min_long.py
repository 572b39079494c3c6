# SPDX-License-Identifier: Apache-2.0
"""Max-min diversity of more tokens than a matrix of all their distances has room for: long videos on a GPU.

The first pick needs every distance once: they are computed block by block, and only each token's nearest is kept. Every
later pick needs the distances to one token: one row at a time, over a running minimum. Beyond its input this holds a
few blocks and vectors. No value is read: on a CPU, which need not wait for values, `max_min_lazy.py` computes less.
"""

import math

import torch

from .fast_distances import distance_dtype, matrix_product_, row_scale, row_statistics, scaled_rows, to_distances_


# Rows of a block of the first pick: products as fast as larger ones, in 40 MB at a width of 4096.
ROWS_PER_BLOCK = 1024
# Entries of a block of the later picks: on a CPU it stays in the cache, on a GPU it fills the chip.
ENTRIES_PER_BLOCK = {"cpu": 2**19, "cuda": 2**26}


def pick_by_blocks(features: torch.Tensor, num_kept: int, weights: torch.Tensor | None = None) -> torch.Tensor:
    """Pick the most diverse rows by greedy max-min cosine distance, without a matrix of all distances.

    Args:
        features (`torch.Tensor` of shape `(M, D)`).
        num_kept (`int`): how many rows to pick, at most M.
        weights (`torch.Tensor` of shape `(M,)`, *optional*): what each row's smallest distance is multiplied by before
            the largest product is picked; not negative.

    Returns:
        `torch.LongTensor` of shape `(num_kept,)`, in the order of picking. Where distances are exact the picks are
        those from the full matrix; elsewhere the first one to differ is as far as the other to within rounding (1e-6).
    """
    scale = row_scale(features, distance_dtype(features))
    # All memory is taken before the loop: taking and freeing some in each step would fragment it.
    num_rows = max(1, ENTRIES_PER_BLOCK.get(features.device.type, 2**19) // features.shape[1])
    buffer = scale.new_empty(min(num_rows, len(features)), features.shape[1])
    row, picks = torch.empty_like(scale), torch.empty(num_kept, dtype=torch.long, device=features.device)
    inverse_norm, is_zero, smallest = row_statistics(row_products_(row, buffer, features, scale))
    nearest = torch.minimum(weighed_(nearest_distances(features, scale), weights), smallest)
    torch.argmax(nearest, dim=0, keepdim=True, out=picks[:1])
    for step in range(1, num_kept):
        last = picks[step - 1 : step]
        row_products_(row, buffer, features, scale, last)
        to_distances_(row.unsqueeze(0), inverse_norm[last], inverse_norm, is_zero[last], is_zero)
        weighed_(row, weights)
        torch.minimum(smallest, row, out=smallest).index_fill_(0, last, -math.inf)
        torch.argmax(smallest, dim=0, keepdim=True, out=picks[step : step + 1])
    return picks


def weighed_(distances: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
    """Multiply distances to all rows by the weights of the rows, in place; Inf stays Inf."""
    return distances if weights is None else distances.mul_(weights).nan_to_num_(nan=math.inf, posinf=math.inf)


def nearest_distances(features: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Return each row's distance to its nearest other row, `(M,)`, from half of all distances, block by block."""
    num_blocks = math.ceil(len(features) / ROWS_PER_BLOCK)
    start = [len(features) * block // num_blocks for block in range(num_blocks + 1)]  # no small one at the end
    blocks = [slice(start[block], start[block + 1]) for block in range(num_blocks)]
    nearest = torch.full_like(scale, math.inf)
    inverse_norm, is_zero = torch.empty_like(scale), torch.empty_like(scale)
    for number, columns in enumerate(blocks):
        right = scaled_rows(features[columns], scale[columns])
        # The diagonal block first: its norms are those of the products beside it, summed in the same order.
        for rows in [columns, *blocks[:number]]:
            is_diagonal = rows is columns
            left = right if is_diagonal else scaled_rows(features[rows], scale[rows])
            block = matrix_product_(scale.new_empty(len(left), len(right)), left, right)
            if is_diagonal:
                inverse_norm[columns], is_zero[columns], _ = row_statistics(block.diagonal())
            to_distances_(block, inverse_norm[rows], inverse_norm[columns], is_zero[rows], is_zero[columns])
            if is_diagonal:
                block.fill_diagonal_(math.inf)
            nearest[rows] = torch.minimum(nearest[rows], block.amin(dim=1))
            nearest[columns] = torch.minimum(nearest[columns], block.amin(dim=0))
    return nearest


def row_products_(
    out: torch.Tensor,
    buffer: torch.Tensor,
    features: torch.Tensor,
    scale: torch.Tensor,
    pick: torch.Tensor | None = None,
) -> torch.Tensor:
    """Write the product of each row with row `pick`, or with itself, into `out`, of shape `(M,)`.

    `buffer`, of shape `(rows, D)`, says how many rows are multiplied at once. All sums go in one order, so that equal
    rows have equal products: a matrix-vector product does not promise that, and rounds more.
    """
    picked = None if pick is None else features[pick] * scale[pick].unsqueeze(1)
    blocks = zip(*(tensor.split(len(buffer)) for tensor in (features, scale, out)))
    for rows, factors, sums in blocks:
        block = torch.mul(rows, factors.unsqueeze(1), out=buffer[: len(rows)])
        block.mul_(block if picked is None else picked)
        torch.sum(block, dim=1, out=sums)
    return out
