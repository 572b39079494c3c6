# SPDX-License-Identifier: Apache-2.0
"""Nothing waits for the vision tower where its counts were compared with the prompt beforehand.

Optional: without this file answers are the same, and a GPU runs dry once per prefill, as with the stock model.
"""

from typing import Any

from .prompt_counts import IMAGE, VIDEO, prompt_of
from .transformers_surface import Stock


class PlaceholdersWithoutWaiting(Stock):
    """An inner model whose placeholder mask reads nothing back that is known already."""

    def get_placeholder_mask(self, **inputs: Any) -> Any:
        """Mark placeholders without counting them on the host, where the stock model waits for the vision tower."""
        prompt = prompt_of(self)
        given = {modality for modality in (IMAGE, VIDEO) if inputs.get(modality.features) is not None}
        if prompt is None or not given <= prompt.fitting:
            return super().get_placeholder_mask(**inputs)
        device = inputs["inputs_embeds"].device
        masks = [
            self._placeholders(modality, inputs["input_ids"], inputs["inputs_embeds"]).unsqueeze(-1).to(device)
            for modality in ((IMAGE, VIDEO) if self.config.takes_videos else (IMAGE,))
        ]
        return masks[0] if len(masks) == 1 else tuple(masks)
