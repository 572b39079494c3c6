"""What the reference model learns beside its projector: a low-rank change of the language model's attention (LoRA)."""

from collections.abc import Iterable, Mapping

import torch
from torch import nn
from torch.nn.utils import parametrize


ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
DOWN, UP = ".low_rank_down", ".low_rank_up"


class LowRank(nn.Module):
    """The weight of a linear layer plus a product of two thin matrices, which is zero at first.

    Args:
        weight: the layer's weight, `(out, in)`.
        rank: how thin they are.
    """

    def __init__(self, weight: torch.Tensor, rank: int) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.randn(rank, weight.shape[1]) / weight.shape[1] ** 0.5)
        self.up = nn.Parameter(torch.zeros(weight.shape[0], rank))

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight + self.up @ self.down


def add_low_rank(layers: Iterable[nn.Module], rank: int) -> dict[str, nn.Parameter]:
    """Let the attention of decoder layers change; return what learns, under llava-hf's names of the layers' weights."""
    learning = {}
    for number, layer in enumerate(layers):
        for name in ATTENTION:
            linear = getattr(layer.self_attn, name)
            change = LowRank(linear.weight, rank)
            parametrize.register_parametrization(linear, "weight", change)
            weight = f"language_model.model.layers.{number}.self_attn.{name}.weight"
            learning |= {weight + DOWN: change.down, weight + UP: change.up}
    return learning


def merged_delta(weights: Mapping[str, torch.Tensor], delta: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the weights that a delta changes, as they are after it: others replaced, low-rank changes added.

    Raises:
        ValueError: the delta has a weight that the model lacks, or one of another shape.
    """
    changed = {}
    for name, value in delta.items():
        target = name.removesuffix(DOWN).removesuffix(UP)
        new = value.float()
        if name.endswith(UP):
            continue
        if name.endswith(DOWN):
            new = weights[target] + delta[target + UP].float() @ new if target in weights else new
        if target not in weights or weights[target].shape != new.shape:
            raise ValueError(f"Got a delta with {name} of shape {tuple(value.shape)}, which this model does not have.")
        changed[target] = new
    return changed
