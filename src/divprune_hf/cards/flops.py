"""The FLOP model of the paper: what the language model computes in one forward over a prompt.

It counts the attention and feed-forward products of each layer, for n tokens, width d and feed-forward width m:
`4 n d^2 + 2 n^2 d + 2 n d m`. It leaves out the vision tower, the projector and the selection.
"""

from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from typing import Any


def layer_flops(num_prompt_tokens: int, hidden_size: int, intermediate_size: int) -> int:
    """Return the FLOPs of one decoder layer over a prompt, text and visual tokens together."""
    n, d, m = num_prompt_tokens, hidden_size, intermediate_size
    return 4 * n * d**2 + 2 * n**2 * d + 2 * n * d * m


def prompt_flops(
    text_config: Any, num_text_tokens: int, num_available: int, num_kept: int | None = None, *, layer: int = 0
) -> int:
    """Return the FLOPs of one forward of the language model over a prompt that is pruned before one of its layers.

    Args:
        text_config: the language model's config; `hidden_size`, `intermediate_size` and `num_hidden_layers` are read.
        num_text_tokens (`int`): tokens of the text.
        num_available (`int`): visual tokens of all images before pruning (M).
        num_kept (`int`, *optional*): visual tokens after pruning (K); all of them by default.
        layer (`int`): number of layers that see all visual tokens; 0 prunes before the first.

    Raises:
        ValueError: `num_kept` is not between 0 and `num_available`.
    """
    if num_kept is None:
        num_kept = num_available
    if not 0 <= num_kept <= num_available:
        raise ValueError(f"Got num_kept={num_kept}, expected 0 to {num_available}, the visual tokens.")
    num_pruned_layers = text_config.num_hidden_layers - layer
    return flops_by_layer(text_config, num_text_tokens, [num_available] * layer + [num_kept] * num_pruned_layers)


def flops_by_layer(text_config: Any, num_text_tokens: int, num_visual: Sequence[int]) -> int:
    """Return the FLOPs of one forward in which each layer sees a number of visual tokens of its own."""
    width, intermediate = text_config.hidden_size, text_config.intermediate_size
    times = Counter(num_visual)
    return sum(layer_flops(num_text_tokens + seen, width, intermediate) * count for seen, count in times.items())


def tokens_for_flops(
    text_config: Any, num_text_tokens: int, num_available: int, share: float, *, layer: int = 0
) -> int:
    """Return the largest number of kept tokens (K) whose prompt costs at most a share of the unpruned one's FLOPs.

    Args:
        text_config, num_text_tokens, num_available, layer: as for `prompt_flops`.
        share: above 0 and at most 1.

    Raises:
        ValueError: even one token costs more, or the share is impossible.
    """
    if not 0 < share <= 1:
        raise ValueError(f"Got a share of {share:.1%} of the FLOPs, expected more than 0 % and at most 100 %.")
    affordable = share * prompt_flops(text_config, num_text_tokens, num_available)
    costs = [
        prompt_flops(text_config, num_text_tokens, num_available, k, layer=layer) for k in range(num_available + 1)
    ]
    num_kept = bisect_right(costs, affordable) - 1
    if num_kept < 1:
        raise ValueError(
            f"Got {share:.1%} of the FLOPs, but one visual token kept from layer {layer} on costs "
            f"{costs[1] / costs[-1]:.1%}, expected at least that."
        )
    return num_kept
