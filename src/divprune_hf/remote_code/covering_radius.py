# SPDX-License-Identifier: Apache-2.0
"""The covering radius: a measure of how well the kept tokens of an image stand for the dropped ones."""

import torch

from .fast_distances import distance_dtype, matrix_product_, row_scale, row_statistics, to_distances_


def covering_radius(features: torch.Tensor, picks: torch.Tensor | None) -> torch.Tensor:
    """Return the largest cosine distance of a dropped token to the kept token that is nearest to it.

    Greedy max-min picks next what is at this distance, so it says what one more token would bring. 0 means that all
    tokens are kept, or that each dropped one has a kept duplicate.

    Args:
        features (`torch.Tensor` of shape `(M, D)`, floating point): the visual tokens of an image or video.
        picks (`torch.LongTensor` of shape `(K,)`, *optional*): indices of the kept ones; None if all are kept.

    Returns:
        `torch.Tensor` without dimensions, float32 or float64, from 0 to 2; Inf where a dropped token holds NaN or Inf.
        It is computed from M times K products, whatever chose the tokens.
    """
    dtype = distance_dtype(features)
    if picks is None:
        return torch.zeros((), dtype=dtype, device=features.device)
    rows = features.to(dtype) * row_scale(features, dtype).unsqueeze(1)
    kept = rows.index_select(0, picks)
    inverse_norm, is_zero, _ = row_statistics(torch.linalg.vector_norm(rows, dim=1).square())
    distances = matrix_product_(rows.new_empty(len(rows), len(kept)), rows, kept)
    to_distances_(distances, inverse_norm, inverse_norm[picks], is_zero, is_zero[picks])
    return distances.amin(dim=1).index_fill(0, picks, 0).amax()
