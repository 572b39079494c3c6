"""The stock model and ours for `bench MODEL`, on the same weights in the same memory."""

from dataclasses import dataclass
from typing import Any

import torch

from divprune_hf.benchmarks.measuring import dtype_on
from divprune_hf.benchmarks.models import build_inputs, build_models, stock_classes
from divprune_hf.benchmarks.shapes import SHAPES, Shape
from divprune_hf.inference.loading import load_pruned
from divprune_hf.remote_code.token_selection import feature_list


@dataclass(frozen=True)
class Pair:
    """Both models.

    Args:
        stock: transformers' own.
        ours: the one that prunes.
        shape: what `build_inputs` reads: the family, and the visual tokens of a square picture (or of 8 frames).
    """

    stock: Any
    ours: Any
    shape: Shape

    @property
    def layer(self) -> int:
        """The decoder layer in front of which tokens are dropped."""
        return self.ours.config.divprune_config.layer


def pair_of_shape(name: str, device: torch.device) -> Pair:
    """Return models with random weights (pocket's are trained)."""
    return Pair(*build_models(SHAPES[name], device, dtype_on(device)), SHAPES[name])


def pair_of_model(model_id: str, device: torch.device) -> Pair:
    """Load a variant or a stock base, and build the stock model around its weights.

    Args:
        model_id: a folder or the id of a Hub repo.
        device: where both run.
    """
    ours, _ = load_pruned(model_id, device=str(device), dtype=dtype_on(device))
    config: Any = ours.config
    family = config.model_type.removeprefix("divprune_")
    stock = stock_around(ours, *stock_classes(family))
    return Pair(stock, ours, Shape(family, num_available=count_visual_tokens(stock, family, device)))


def stock_around(ours: Any, config_class: Any, model_class: Any) -> Any:
    """Return a stock model that holds the weights of ours."""
    left_out = ("model_type", "divprune_config", "auto_map", "architectures")
    settings = {name: value for name, value in ours.config.to_dict().items() if name not in left_out}
    with torch.device("meta"):
        stock = model_class(config_class(**settings))
    stock.load_state_dict(ours.state_dict(), assign=True)
    for name, module in stock.named_modules():  # rotary frequencies and such, which no state dict has
        twin = ours.get_submodule(name)
        for held, twins in ((module._buffers, twin._buffers), (vars(module), vars(twin))):
            for key, value in held.items():
                if isinstance(value, torch.Tensor) and value.is_meta:
                    held[key] = twins[key]
    stock.generation_config = ours.generation_config
    return stock.eval()


@torch.no_grad()
def count_visual_tokens(stock: Any, family: str, device: torch.device) -> int:
    """Return how many visual tokens the stock model makes of one picture, or of one video, of `build_inputs`."""
    inputs = build_inputs(Shape(family, num_available=1), stock.config, 1, None, device, stock.dtype)
    if "pixel_values_videos" in inputs:  # by position: releases differ in its name
        outputs = stock.model.get_video_features(inputs["pixel_values_videos"])
    else:
        sizes = {name: value for name, value in inputs.items() if name == "image_sizes"}
        outputs = stock.model.get_image_features(inputs["pixel_values"], **sizes)
    return len(feature_list(outputs)[0])
