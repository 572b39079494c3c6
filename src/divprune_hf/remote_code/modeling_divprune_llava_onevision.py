# SPDX-License-Identifier: Apache-2.0
"""LLaVA-OneVision that answers from the most diverse of its visual tokens."""

from typing import Any

import torch
from transformers import LlavaOnevisionForConditionalGeneration, LlavaOnevisionModel

from .configuration_divprune_llava_onevision import DivPruneLlavaOnevisionConfig
from .generation_divprune import DivPruneVideoHeadMixin
from .image_views import checked_image_sizes
from .prompt_counts import IMAGE, Modality
from .pruning_divprune import DivPruneVideoModelMixin


class DivPruneLlavaOnevisionModel(DivPruneVideoModelMixin, LlavaOnevisionModel):  # type: ignore[misc]  # arguments come by name
    """LLaVA-OneVision without its language modelling head.

    Modifications: those of `DivPruneVideoModelMixin` and `DivPruneModelMixin`;
    - base view, unpadded crops and newline rows of an image are one pool with one budget. A picture that shares its
      prompt with others has a base view alone, as in the stock model;
    - `image_sizes` that do not fit the pixels raise one clear `ValueError`, and are read before the vision tower runs.
    """

    config_class = DivPruneLlavaOnevisionConfig

    def _checked_inputs(self, modality: Modality, inputs: dict[str, Any]) -> dict[str, Any]:
        if modality is not IMAGE:
            return inputs
        pixels, given = inputs["pixel_values"], inputs.get("batch_num_images")
        per_prompt = given.tolist() if isinstance(given, torch.Tensor) else given
        alone = None if per_prompt is None else [number == 1 for number in per_prompt for _ in range(number)]
        sizes = checked_image_sizes(self.config, pixels, inputs.get("image_sizes"), alone)
        return {**inputs, "image_sizes": sizes, "batch_num_images": per_prompt}


class DivPruneLlavaOnevisionForConditionalGeneration(DivPruneVideoHeadMixin, LlavaOnevisionForConditionalGeneration):  # type: ignore[misc]  # arguments come by name
    """LLaVA-OneVision with its language modelling head.

    Modifications: those of `DivPruneVideoHeadMixin` and `DivPruneHeadMixin`.
    """

    config_class = DivPruneLlavaOnevisionConfig
    inner_class = DivPruneLlavaOnevisionModel
