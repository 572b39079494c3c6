"""What a baseline that makes new features is given: one picture's features, and a second look into the vision tower."""

from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class TowerView:
    """What PruMerge reads of the vision tower, at the layer whose output is projected.

    Attributes:
        patches: its output for each patch, `(M, width)`, before the projector.
        class_attention: how much the class token attends to each patch, the mean over heads, `(M,)`.
        keys: the patches' keys of all heads, `(M, width)`.
    """

    patches: torch.Tensor
    class_attention: torch.Tensor
    keys: torch.Tensor


@dataclass(frozen=True)
class Picture:
    """One picture of a prompt.

    Attributes:
        features: its visual tokens after the projector, `(M, D)`.
        model: the inner model that made them.
        pixels: its views as the vision tower takes them, `(num_views, channels, height, width)`, the base view first.
    """

    features: torch.Tensor
    model: Any
    pixels: torch.Tensor

    @property
    def tokens_per_view(self) -> int:
        """The number of visual tokens of one view."""
        vision = self.model.config.vision_config
        return (vision.image_size // vision.patch_size) ** 2

    @torch.no_grad()
    def tower_view(self) -> TowerView:
        """Run the vision tower on the base view once more, and read what PruMerge needs.

        Raises:
            ValueError: several views, several layers or no class token, which PruMerge does not describe.
        """
        config, tower = self.model.config, self.model.vision_tower
        inner = getattr(tower, "vision_model", tower)
        chosen = config.vision_feature_layer
        if len(self.features) != self.tokens_per_view or not isinstance(chosen, int):
            raise ValueError(
                f"Got {len(self.features)} visual tokens of vision_feature_layer={chosen}, expected "
                f"{self.tokens_per_view} of one layer: prumerge takes pictures that are one view, such as LLaVA-1.5's."
            )
        if not hasattr(inner, "encoder") or not hasattr(inner.embeddings, "class_embedding"):
            raise ValueError(
                f"Got a {type(tower).__name__}, expected CLIP: prumerge reads the class token's attention."
            )
        layers = inner.encoder.layers
        attention = layers[chosen if chosen < 0 else chosen - 1].self_attn  # hidden state 0 is the embedding
        seen: dict[str, torch.Tensor] = {}
        hooks = [
            attention.k_proj.register_forward_hook(lambda module, args, output: seen.update(keys=output[0, 1:])),
            attention.q_proj.register_forward_hook(lambda module, args, output: seen.update(query=output[0, 0])),
        ]
        try:
            states = tower(self.pixels[:1], output_hidden_states=True).hidden_states[chosen]
        finally:
            for hook in hooks:
                hook.remove()
        heads = attention.num_heads
        keys = seen["keys"].float()
        query = seen["query"].float().view(heads, -1)
        scores = torch.einsum("hd,mhd->hm", query, keys.view(len(keys), heads, -1)) / query.shape[1] ** 0.5
        return TowerView(states[0, 1:], scores.softmax(dim=1).mean(dim=0), keys)
