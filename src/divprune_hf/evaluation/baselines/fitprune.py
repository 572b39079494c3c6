"""FitPrune (arXiv 2409.10197): a schedule over layers that changes the attention of a few examples least.

Of each layer, the tokens are ranked by the attention that they get from visual tokens, times what they get from text. A
layer may lose as many as together hold no more than a share alpha of either kind of attention, on the average of the
examples. A binary search finds the alpha that a budget allows.
"""

from collections.abc import Callable, Sequence

import torch


GRID = torch.linspace(0, 1, 1001, dtype=torch.float64)  # shares of the visual tokens
STEPS = 40  # of the binary search


def attention_received(
    weights: torch.Tensor, visible: torch.Tensor, is_text: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what each token gets from visual tokens and from text, means over heads and queries, `(B, S)` each."""
    by_heads = weights.mean(dim=1)
    from_visual, from_text = (
        torch.einsum("bqk,bq->bk", by_heads, queries.to(by_heads.dtype)) / queries.sum(1, keepdim=True).clamp(min=1)
        for queries in (visible, is_text)
    )
    return from_visual, from_text


def product_of_attentions(weights: torch.Tensor, visible: torch.Tensor, is_text: torch.Tensor) -> torch.Tensor:
    """Return the score of FitPrune, `(B, S)`."""
    from_visual, from_text = attention_received(weights, visible, is_text)
    return from_visual * from_text


def share_lost(from_visual: torch.Tensor, from_text: torch.Tensor) -> torch.Tensor:
    """Return, on `GRID`, the larger of the two shares of attention that the lowest tokens of a picture hold together.

    Args:
        from_visual, from_text: what each visual token of one picture gets in one layer, `(M,)`.
    """
    order = (from_visual * from_text).argsort()
    curves = []
    for received in (from_visual, from_text):
        sums = received[order].double().cumsum(0)
        held = torch.cat((sums.new_zeros(1), sums / sums[-1]))
        curves.append(held[(GRID.to(held.device) * len(order)).long()])
    return torch.maximum(*curves)


def fitted_shares(lost: torch.Tensor, fits: Callable[[Sequence[float]], bool]) -> list[float]:
    """Return the share of the visual tokens that each layer sees.

    Args:
        lost: of each layer, `share_lost` averaged over the examples, `(num_layers, len(GRID))`.
        fits: tells whether a schedule is within the budget.
    """
    low, high = 0.0, 1.0  # the shares of attention that may be lost: too little, enough
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if fits(shares_for(lost, middle)) else (middle, high)
    return shares_for(lost, high)


def shares_for(lost: torch.Tensor, alpha: float) -> list[float]:
    """Return the schedule in which no layer loses more than a share `alpha` of the attention.

    What a layer may lose is gone in the next one, since it is the layer's own attention that tells.
    """
    shares = [1.0]
    for curve in lost[:-1]:
        affordable = int((curve <= alpha).nonzero()[-1])
        shares.append(min(shares[-1], 1 - float(GRID[affordable])))
    return shares
