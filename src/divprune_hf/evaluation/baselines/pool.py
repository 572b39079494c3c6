"""Plain downsampling: the grid of patches, averaged to a smaller one."""

import math

import torch


def pooled(features: torch.Tensor, num_tokens: int) -> torch.Tensor:
    """Return the features of the largest square grid that has at most `num_tokens` cells, row by row.

    Each is the average of the patches that its cell covers: of 24 x 24 patches, 144 tokens are 12 x 12 averages of
    four. Where sizes do not divide, cells overlap by a patch (adaptive average pooling).

    Args:
        features (`torch.Tensor` of shape `(M, D)`): of an image that is a square grid of patches.
        num_tokens (`int`): the most that may be left, at least 1.

    Raises:
        ValueError: M is not a square number: several views of a picture are no grid.
    """
    side = math.isqrt(len(features))
    if side**2 != len(features):
        raise ValueError(
            f"Got {len(features)} visual tokens, expected a square number: pooling takes pictures that are one grid of "
            "patches, such as LLaVA-1.5's."
        )
    smaller = min(side, math.isqrt(num_tokens))
    grid = features.T.reshape(1, -1, side, side)
    return torch.nn.functional.adaptive_avg_pool2d(grid, smaller).flatten(2)[0].T
