"""The FLOP model of the paper: what the language model computes in one forward over a prompt.

It counts the attention and feed-forward products of each layer, for n tokens, width d and feed-forward width m:
`4 n d^2 + 2 n^2 d + 2 n d m`. The vision tower, the projector and the selection are not in it.
"""


def layer_flops(num_prompt_tokens: int, hidden_size: int, intermediate_size: int) -> int:
    """FLOPs of one decoder layer over a prompt, text and visual tokens together."""
    n, d, m = num_prompt_tokens, hidden_size, intermediate_size
    return 4 * n * d**2 + 2 * n**2 * d + 2 * n * d * m


def prompt_flops(
    text_config, num_text_tokens: int, num_visual_tokens: int, num_tokens_kept: int | None = None, layer: int = 0
) -> int:
    """FLOPs of one forward of the language model over a prompt.

    Args:
        text_config: the language model's config; `hidden_size`, `intermediate_size` and `num_hidden_layers` are read.
        num_text_tokens (`int`): tokens of the text.
        num_visual_tokens (`int`): visual tokens of all images before pruning.
        num_tokens_kept (`int`, *optional*): visual tokens after pruning; all of them by default.
        layer (`int`): how many layers still see all visual tokens; 0 prunes before the language model.

    Returns:
        FLOPs, for `layer` layers at full length and the others at the shorter one.
    """
    if num_tokens_kept is None:
        num_tokens_kept = num_visual_tokens
    if not 0 <= num_tokens_kept <= num_visual_tokens:
        raise ValueError(
            f"Got num_tokens_kept={num_tokens_kept}, expected 0 to {num_visual_tokens}, the visual tokens."
        )
    if not 0 <= layer <= text_config.num_hidden_layers:
        raise ValueError(f"Got layer={layer}, expected 0 to {text_config.num_hidden_layers}, the layers of the model.")
    sizes = text_config.hidden_size, text_config.intermediate_size
    full = layer_flops(num_text_tokens + num_visual_tokens, *sizes)
    pruned = layer_flops(num_text_tokens + num_tokens_kept, *sizes)
    return layer * full + (text_config.num_hidden_layers - layer) * pruned
