"""Visual tokens that leave the language model on the way: hidden from the layers behind the one that decides.

A token that leaves in front of layer l is hidden from the attention of layers l and above, for the prompt and for what
is generated. That computes what a decoder without it computes: positions stay, and its own hidden state is read by
nobody. It saves nothing; what it would save is in the FLOP model.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch


Score = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Leaving:
    """When visual tokens leave, and which.

    Attributes:
        shares: of each decoder layer, the share of the visual tokens that it sees; 1 at first, never growing.
        score: what the tokens that stay are ranked by: takes the attention of the layer in front, `(B, heads, S, S)`,
            the visual tokens that it sees and the text tokens, bool `(B, S)` each; returns `(B, S)`. None where all
            leave at once.
    """

    shares: Sequence[float]
    score: Score | None


@contextmanager
def leaving(language_model: Any, is_visual: torch.Tensor, is_text: torch.Tensor, plan: Leaving) -> Iterator[None]:
    """Let visual tokens leave in every prompt, and what is generated behind it, that runs inside.

    Args:
        language_model: a stock decoder. It computes attention eagerly meanwhile: sdpa gives no weights.
        is_visual: bool, `(B, S)`, the visual tokens of the prompt.
        is_text: bool, `(B, S)`, its other tokens, without padding.
        plan: when and which.
    """
    prompt = _Prompt(is_visual, is_text, plan)
    config = language_model.config
    implementation = config._attn_implementation
    hooks = []
    for index, layer in enumerate(language_model.layers):
        hooks.append(layer.register_forward_pre_hook(partial(prompt.hide, index), with_kwargs=True))
        if index + 1 < len(plan.shares):
            hooks.append(layer.self_attn.register_forward_hook(partial(prompt.decide, index)))
    config._attn_implementation = "eager"
    try:
        yield
    finally:
        config._attn_implementation = implementation
        for hook in hooks:
            hook.remove()


class _Prompt:
    """The prompt that runs: which of its tokens have left, by layer."""

    def __init__(self, is_visual: torch.Tensor, is_text: torch.Tensor, plan: Leaving) -> None:
        self.is_visual, self.is_text, self.plan = is_visual, is_text, plan
        self.left: dict[int, torch.Tensor] = {}  # of each layer, the tokens that it does not see, bool (B, S)

    def hide(self, index: int, layer: Any, args: tuple, inputs: dict[str, Any]) -> Any:
        """Mask the keys of tokens that have left, as a pre-hook of a layer."""
        if index not in self.left:
            return None
        mask = inputs["attention_mask"]
        left = torch.nn.functional.pad(self.left[index], (0, mask.shape[-1] - self.is_visual.shape[1]))
        hidden = mask.masked_fill(left[:, None, None, :], torch.finfo(mask.dtype).min)
        return args, {**inputs, "attention_mask": hidden}

    def decide(self, index: int, attention_layer: Any, args: tuple, outputs: tuple) -> None:
        """Choose what the next layer sees, as a hook of a layer's attention; for a prompt, not for what follows it."""
        weights = outputs[1]
        if weights.shape[2] != self.is_visual.shape[1]:
            return
        is_visual, is_text = self.is_visual.to(weights.device), self.is_text.to(weights.device)
        left = self.left.get(index, torch.zeros_like(is_visual))
        share, next_share = self.plan.shares[index : index + 2]
        if next_share < share:
            visible = is_visual & ~left
            num_seen = (is_visual.sum(1, keepdim=True) * next_share).round()
            scores = visible.float() if self.plan.score is None else self.plan.score(weights.float(), visible, is_text)
            ranked = scores.masked_fill(~visible, -torch.inf).argsort(dim=1, descending=True, stable=True)
            left = left | (visible & (ranked.argsort(dim=1) >= num_seen))
        self.left[index + 1] = left
