"""PruMerge (LLaVA-PruMerge, arXiv 2403.15388): keep what the class token attends to, merge similar patches into it."""

import torch

from divprune_hf.evaluation.baselines.picture import Picture


NUM_NEIGHBOURS = 32


def prumerge(picture: Picture, num_tokens: int) -> torch.Tensor:
    """Return features of the patches that the class token attends to most, each with its like merged in.

    The paper keeps the outliers of that attention, a number that differs from picture to picture. Here it is given, so
    that methods are compared at one budget.

    Args:
        picture: of one view; a tower of CLIP.
        num_tokens (`int`): the number to keep (K).
    """
    view = picture.tower_view()
    return picture.model.multi_modal_projector(
        merged_patches(view.patches, view.class_attention, view.keys, num_tokens)
    )


def merged_patches(
    patches: torch.Tensor, class_attention: torch.Tensor, keys: torch.Tensor, num_tokens: int
) -> torch.Tensor:
    """Return `(K, width)` patches, in the order of the picture.

    Each kept patch becomes the mean of itself and the up to `NUM_NEIGHBOURS` dropped patches whose keys have the
    largest product with its own, weighted by the class token's attention.

    Args:
        patches (`torch.Tensor` of shape `(M, width)`): before the projector.
        class_attention (`torch.Tensor` of shape `(M,)`): how much the class token attends to each.
        keys (`torch.Tensor` of shape `(M, width)`): the patches' keys.
        num_tokens (`int`): the number to keep (K), clamped to [1, M].
    """
    num_tokens = max(1, min(num_tokens, len(patches)))
    kept = class_attention.argsort(descending=True, stable=True)[:num_tokens].sort().values
    is_dropped = torch.ones_like(class_attention, dtype=torch.bool)
    is_dropped[kept] = False
    dropped = is_dropped.nonzero()[:, 0]
    similarity = keys[kept] @ keys[dropped].T
    nearest = similarity.topk(min(NUM_NEIGHBOURS, len(dropped)), dim=1).indices
    groups = torch.cat((kept.unsqueeze(1), dropped[nearest]), dim=1)
    weights = class_attention[groups].to(patches.dtype)
    return (weights.unsqueeze(2) * patches[groups]).sum(1) / weights.sum(1, keepdim=True)
