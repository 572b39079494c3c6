"""The FLOP model of the paper: what the language model computes in one forward over a prompt.

It counts the attention and feed-forward products of each layer, for n tokens, width d and feed-forward width m:
`4 n d^2 + 2 n^2 d + 2 n d m`. It leaves out the vision tower, the projector and the selection.
"""

from typing import Any


def layer_flops(num_prompt_tokens: int, hidden_size: int, intermediate_size: int) -> int:
    """Return the FLOPs of one decoder layer over a prompt, text and visual tokens together."""
    n, d, m = num_prompt_tokens, hidden_size, intermediate_size
    return 4 * n * d**2 + 2 * n**2 * d + 2 * n * d * m


def prompt_flops(text_config: Any, num_text_tokens: int, num_available: int, num_kept: int | None = None) -> int:
    """Return the FLOPs of one forward of the language model over a prompt that is pruned before its first layer.

    Args:
        text_config: the language model's config; `hidden_size`, `intermediate_size` and `num_hidden_layers` are read.
        num_text_tokens (`int`): tokens of the text.
        num_available (`int`): visual tokens of all images before pruning (M).
        num_kept (`int`, *optional*): visual tokens after pruning (K); all of them by default.

    Raises:
        ValueError: `num_kept` is not between 0 and `num_available`.
    """
    if num_kept is None:
        num_kept = num_available
    if not 0 <= num_kept <= num_available:
        raise ValueError(f"Got num_kept={num_kept}, expected 0 to {num_available}, the visual tokens.")
    per_layer = layer_flops(num_text_tokens + num_kept, text_config.hidden_size, text_config.intermediate_size)
    return text_config.num_hidden_layers * per_layer
