# SPDX-License-Identifier: Apache-2.0
"""Nothing waits for the vision tower where its counts were compared with the prompt beforehand.

Optional: without this file answers are the same, and a GPU runs dry once per prefill, as with the stock model.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any

from .prompt_counts import IMAGE, VIDEO, prompt_of
from .transformers_surface import Stock


class PlaceholdersWithoutWaiting(Stock):
    """An inner model whose placeholder mask reads nothing back that is known already."""

    def get_placeholder_mask(self, **inputs: Any) -> Any:
        """Mark placeholders without counting them on the host, where the stock model waits for the vision tower."""
        prompt, stock_method = prompt_of(self), super().get_placeholder_mask
        given = {modality for modality in (IMAGE, VIDEO) if inputs.get(modality.features) is not None}
        if prompt is None or not given <= prompt.fitting:
            return stock_method(**inputs)
        device = inputs["inputs_embeds"].device
        names = parameters_of(stock_method.__func__)
        masks = [
            self._placeholders(modality, inputs["input_ids"], inputs["inputs_embeds"]).unsqueeze(-1).to(device)
            for modality in (IMAGE, VIDEO)
            if modality.features in names
        ]
        return masks[0] if len(masks) == 1 else tuple(masks)


@functools.cache
def parameters_of(function: Callable[..., Any]) -> frozenset[str]:
    """Return the names of a function's parameters, read once: a signature takes as long as a small kernel."""
    return frozenset(inspect.signature(function).parameters)
