"""Comparison of a config with its weights, by the shapes of the tensors that the model needs."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from divprune_hf.checkpoints.families import Family
from divprune_hf.common.printable import error_line


def needed_shapes(config: dict[str, Any], family: Family, source: str | Path) -> list[tuple[int, ...]]:
    """Return the shape of every weight that a model with this config reads from files. No memory is allocated.

    Args:
        config: the content of a variant's `config.json`, which `judge` has checked for foreign code.
        family: its family.
        source: where it is from, for errors.

    Raises:
        ValueError: no model can be built from it.
    """
    try:
        with torch.device("meta"):
            model = family.head_class(family.config_class.from_dict(dict(config)))
        check_reachable(model.config)
    except Exception as error:  # the errors of impossible sizes have no common class
        raise ValueError(f"No model can be built from config.json of {source} ({error_line(error)}).") from None
    weights = model.state_dict()
    if getattr(model.config.get_text_config(), "tie_word_embeddings", False) or model.config.tie_word_embeddings:
        weights = {name: weight for name, weight in weights.items() if not name.startswith("lm_head.")}
    return [tuple(weight.shape) for weight in weights.values()]


def check_reachable(config: Any) -> None:
    """Refuse placeholder ids outside the vocabulary, and feature layers that the vision tower lacks."""
    vocab_size = config.get_text_config().vocab_size
    for name in ("image_token_id", "video_token_id"):
        token = getattr(config, name, 0)
        if type(token) is not int or not 0 <= token < vocab_size:
            raise ValueError(f"{name}={token!r}, expected a token of a vocabulary of {vocab_size}")
    layers, num_layers = config.vision_feature_layer, config.vision_config.num_hidden_layers
    for layer in layers if isinstance(layers, (list, tuple)) else [layers]:
        if type(layer) is not int or not -num_layers - 1 <= layer <= num_layers:
            raise ValueError(f"vision_feature_layer={layers!r} for a vision tower of {num_layers} layers")


def check_weights_fit(needed: Iterable[tuple[int, ...]], shapes: Iterable[tuple[int, ...]], source: str | Path) -> None:
    """Refuse weights that lack a tensor that the model needs.

    Args:
        needed: the shapes that `needed_shapes` returns.
        shapes: the shape of every tensor in the weights, from the headers.
        source: where both are from, for errors.

    Raises:
        ValueError: names one missing shape and how many tensors of it are missing.
    """
    absent = Counter(needed) - Counter(shapes)
    if absent:
        shape, number = next(iter(absent.items()))
        raise ValueError(
            f"config.json of {source} does not fit its weights: the model needs {number} more tensors of shape {shape} "
            "than the safetensors headers list."
        )
