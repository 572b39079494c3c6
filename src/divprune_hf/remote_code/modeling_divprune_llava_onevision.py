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
from .token_selection import Flattened


# isort: split
# transformers 4.57 ships only what this file imports: tests/remote_code/test_direct_imports.py writes
from .baseline_selectors import uniform_picks  # noqa: F401
from .budget import check_ratio  # noqa: F401
from .centered_fast import centered_picks  # noqa: F401
from .checkpoint_keys import read_base_checkpoints  # noqa: F401
from .compat_generation import GenerationBefore523  # noqa: F401
from .configuration_divprune import DivPruneConfig  # noqa: F401
from .covering_radius import covering_radius  # noqa: F401
from .family_names import FamilyNames  # noqa: F401
from .fast_distances import cosine_distances  # noqa: F401
from .kept_slots import Kept  # noqa: F401
from .layer_pruning import Pool  # noqa: F401
from .max_min import pick_max_min  # noqa: F401
from .max_min_fast import select_diverse_tokens  # noqa: F401
from .max_min_lazy import Rows  # noqa: F401
from .max_min_long import pick_by_blocks  # noqa: F401
from .max_min_triton import distances_program  # noqa: F401
from .no_waiting import PlaceholdersWithoutWaiting  # noqa: F401
from .saved_code import save_code  # noqa: F401
from .selectors import Images  # noqa: F401
from .settings import Setting  # noqa: F401
from .signatures import MadeFromStock  # noqa: F401
from .token_positions import lead_steps  # noqa: F401
from .transformers_surface import check_methods  # noqa: F401
from .unused_layers import num_layers_to_run  # noqa: F401


class DivPruneLlavaOnevisionModel(DivPruneVideoModelMixin, LlavaOnevisionModel):  # type: ignore[misc]  # arguments come by name
    """LLaVA-OneVision without its language modelling head.

    Modifications: those of `DivPruneVideoModelMixin` and `DivPruneModelMixin`;
    - base view, unpadded crops and newline rows of an image are one pool with one budget. A picture that shares its
      prompt with others has a base view alone, as in the stock model;
    - `image_sizes` that do not fit the pixels raise one clear `ValueError`, and are read before the vision tower runs.
    """

    config_class = DivPruneLlavaOnevisionConfig

    def forward(self, **inputs: Any) -> Any:
        """Run the pruned forward; `generate` may have made plain lists of the features that it encoded first."""
        for outputs in (inputs.get("mm_encoder_outputs") or {}).values():
            if type(outputs.pooler_output) is list:
                outputs.pooler_output = Flattened(outputs.pooler_output)
        return super().forward(**inputs)

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
