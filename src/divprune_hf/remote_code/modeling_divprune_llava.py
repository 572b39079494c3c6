# SPDX-License-Identifier: Apache-2.0
"""LLaVA-1.5 that answers from the most diverse of its visual tokens."""

from transformers import LlavaForConditionalGeneration, LlavaModel

from .configuration_divprune import DivPruneLlavaConfig
from .generation_divprune import DivPruneHeadMixin
from .pruning_divprune import DivPruneModelMixin


# isort: split
# transformers 4.57 ships only what this file imports: tests/remote_code/test_direct_imports.py writes
from .baseline_selectors import uniform_picks  # noqa: F401
from .budget import check_ratio  # noqa: F401
from .centered_fast import centered_picks  # noqa: F401
from .checkpoint_keys import read_base_checkpoints  # noqa: F401
from .compat_generation import GenerationBefore523  # noqa: F401
from .covering_radius import covering_radius  # noqa: F401
from .family_names import FamilyNames  # noqa: F401
from .fast_distances import cosine_distances  # noqa: F401
from .image_views import num_views_of_images  # noqa: F401
from .kept_slots import Kept  # noqa: F401
from .layer_pruning import Pool  # noqa: F401
from .max_min import pick_max_min  # noqa: F401
from .max_min_fast import select_diverse_tokens  # noqa: F401
from .max_min_lazy import Rows  # noqa: F401
from .max_min_long import pick_by_blocks  # noqa: F401
from .max_min_triton import distances_program  # noqa: F401
from .no_waiting import PlaceholdersWithoutWaiting  # noqa: F401
from .prompt_counts import Modality  # noqa: F401
from .saved_code import save_code  # noqa: F401
from .selectors import Images  # noqa: F401
from .settings import Setting  # noqa: F401
from .signatures import MadeFromStock  # noqa: F401
from .token_positions import lead_steps  # noqa: F401
from .token_selection import Flattened  # noqa: F401
from .transformers_surface import check_methods  # noqa: F401
from .unused_layers import num_layers_to_run  # noqa: F401


class DivPruneLlavaModel(DivPruneModelMixin, LlavaModel):  # type: ignore[misc]  # arguments come by name
    """LLaVA-1.5 without its language modelling head.

    Modifications: those of `DivPruneModelMixin`.
    """

    config_class = DivPruneLlavaConfig


class DivPruneLlavaForConditionalGeneration(DivPruneHeadMixin, LlavaForConditionalGeneration):  # type: ignore[misc]  # arguments come by name
    """LLaVA-1.5 with its language modelling head.

    Modifications: those of `DivPruneHeadMixin`.
    """

    config_class = DivPruneLlavaConfig
    inner_class = DivPruneLlavaModel
