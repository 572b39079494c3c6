"""The base view alone: what LLaVA-NeXT sees of a picture without its crops, plain downsampling of the picture."""

import torch

from divprune_hf.evaluation.baselines.picture import Picture
from divprune_hf.evaluation.baselines.pool import pooled


def base_view(picture: Picture, num_tokens: int) -> torch.Tensor:
    """Return the features of the base view, pooled to the largest square grid that fits where they are too many.

    Args:
        picture: of several views, of which the base view's tokens come first.
        num_tokens (`int`): the most that may be left, at least 1.

    Raises:
        ValueError: there is one view only.
    """
    num_base = picture.tokens_per_view
    if len(picture.features) <= num_base:
        raise ValueError(
            f"Got {len(picture.features)} visual tokens, expected more than the {num_base} of the base view: this "
            "model sees no crops. Use pool."
        )
    return pooled(picture.features[:num_base], num_tokens)
