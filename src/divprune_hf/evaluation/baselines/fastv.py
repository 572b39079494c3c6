"""FastV (arXiv 2403.06764): visual tokens that the last token of the prompt barely attends to leave early."""

import torch


def attention_of_last(weights: torch.Tensor, visible: torch.Tensor, is_text: torch.Tensor) -> torch.Tensor:
    """Return how much the last token attends to each token, the mean over heads, `(B, S)`."""
    return weights[:, :, -1].mean(dim=1)


def fastv_shares(num_layers: int, layer: int, share: float) -> list[float]:
    """Return the share of the visual tokens that each layer sees: all in front of `layer`, then `share`."""
    return [1.0] * layer + [share] * (num_layers - layer)
