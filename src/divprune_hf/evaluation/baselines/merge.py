"""DivPrune with what it drops merged in: each dropped token is averaged into the kept one that is nearest."""

import torch

from divprune_hf.remote_code.max_min import cosine_distances
from divprune_hf.remote_code.max_min_fast import select_diverse_tokens


def merged(features: torch.Tensor, num_tokens: int) -> torch.Tensor:
    """Return the means of `num_tokens` groups of tokens, in the order of their kept tokens in the image.

    The kept tokens are those of max-min. Every other token belongs to the group of the kept token at the smallest
    cosine distance, the first of several.

    Args:
        features (`torch.Tensor` of shape `(M, D)`): the visual tokens of an image or video.
        num_tokens (`int`): the number of groups (K), clamped to [1, M].
    """
    picks = select_diverse_tokens(features, num_tokens)
    group = cosine_distances(features)[:, picks].nan_to_num(nan=torch.inf).argmin(dim=1)
    group[picks] = torch.arange(len(picks), device=group.device)
    sums = features.new_zeros(len(picks), features.shape[1]).index_add_(0, group, features)
    sizes = features.new_zeros(len(picks)).index_add_(0, group, features.new_ones(len(features)))
    return sums / sizes.unsqueeze(1)
