# SPDX-License-Identifier: Apache-2.0
"""Vision layers above the deepest one that is read do not run.

LLaVA reads `vision_feature_layer`, -2 or a list; the stock tower runs to its end all the same. Here a call says how
many layers it reads, and the tower's list of layers ends there. No layer, weight or key of the state dict changes.
"""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch

from .prompt_counts import PROMPT, Prompt, prompt_of
from .transformers_surface import Stock


# The towers of LLaVA checkpoints, by `model_type`. They iterate over one `ModuleList`, and return what goes into its
# first layer and what comes out of each. Other towers run to their end.
TOWERS = ("clip_vision_model", "siglip_vision_model", "dinov2")


def num_layers_to_run() -> int | None:
    """How many layers of its vision tower the running call reads; None if it reads all, or nothing runs."""
    prompt = PROMPT.get()
    return None if prompt is None else prompt.num_vision_layers


class TowerLayers(torch.nn.ModuleList):
    """The layers of a vision tower.

    Modifications: an iteration ends at the deepest layer that the running call reads, if there is such a call.
    """

    def __iter__(self) -> Iterator[torch.nn.Module]:
        layers, num_layers = super().__iter__(), num_layers_to_run()
        return layers if num_layers is None else itertools.islice(layers, num_layers)


class VisionLayersMixin(Stock):
    """The part of an inner model that ends its vision tower where nothing more is read."""

    def _install_vision_layers(self) -> None:
        """Let the vision tower's list of layers end early, where the tower is one of `TOWERS`."""
        layers = tower_layers(self.vision_tower)
        if type(layers) is torch.nn.ModuleList:  # not yet
            layers.__class__ = TowerLayers
            self.vision_tower.register_forward_hook(without_unused)

    def _read_vision_layers(
        self, get_features: Callable[..., Any], pixels: list, inputs: dict[str, Any], read_all: bool = False
    ) -> Any:
        """Return what a stock method returns for `pixels` and `inputs`, from the vision layers that it reads."""
        prompt, num_layers = prompt_of(self), None if read_all else num_layers_read(self.config, inputs)
        if prompt is None and torch.compiler.is_compiling():  # setting a ContextVar would break the graph
            num_layers = None
        if num_layers is None:
            return get_features(*pixels, **inputs)
        told = None
        if prompt is None:
            prompt = Prompt(None, {})
            told = PROMPT.set(prompt)
        prompt.num_vision_layers = num_layers
        try:
            return get_features(*pixels, **inputs)
        finally:
            prompt.num_vision_layers = None
            if told is not None:
                PROMPT.reset(told)


def tower_layers(tower: torch.nn.Module) -> torch.nn.ModuleList | None:
    """Return the list of layers of a vision tower, the one with `num_hidden_layers` entries; None if it is not known.

    Towers name it differently, and releases put it at different depths.
    """
    config: Any = tower.config
    # With tied ends the last hidden state of the tuple is not what came out of a layer.
    if config.model_type not in TOWERS or getattr(config, "tie_last_hidden_states", None):
        return None
    lists = [module for module in tower.modules() if isinstance(module, torch.nn.ModuleList)]
    found = [layers for layers in lists if len(layers) == config.num_hidden_layers]
    return found[0] if len(found) == 1 else None


def num_layers_read(config: Any, inputs: dict[str, Any]) -> int | None:
    """Return how many vision layers a call has to run; None for all.

    Args:
        config: the model's; `vision_feature_layer` is read where `inputs` does not name it.
        inputs: the arguments of the call, by name.
    """
    for wish in ("output_hidden_states", "output_attentions"):
        if inputs.get(wish) or getattr(config, wish, False) or getattr(config.vision_config, wish, False):
            return None
    read = inputs.get("vision_feature_layer")
    read = config.vision_feature_layer if read is None else read
    indices = [read] if isinstance(read, int) else list(read)
    num_layers = getattr(config.vision_config, "num_hidden_layers", 0)
    if not indices or not all(-num_layers - 1 <= index <= num_layers for index in indices):
        return None  # the stock method says what is wrong
    # Index 0 is what goes into the first layer, noted when that one runs.
    deepest = max(1, *(index % (num_layers + 1) for index in indices))
    return deepest if deepest < num_layers else None


def without_unused(tower: torch.nn.Module, args: tuple, outputs: Any) -> Any:
    """Return what a tower that ended early has computed, as its forward hook.

    Hidden states of layers that did not run are None, so that the others stand where they always do. What the tower
    makes of its last layer, `last_hidden_state` and `pooler_output`, would be wrong, and is None.
    """
    if num_layers_to_run() is None or not outputs.hidden_states:
        return None
    config: Any = tower.config
    num_missing = config.num_hidden_layers + 1 - len(outputs.hidden_states)
    return type(outputs)(hidden_states=(*outputs.hidden_states, *[None] * num_missing)) if num_missing else None
