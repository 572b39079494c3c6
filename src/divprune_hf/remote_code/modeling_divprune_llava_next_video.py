# SPDX-License-Identifier: Apache-2.0
"""LLaVA-NeXT-Video that answers from the most diverse of its visual tokens."""

from transformers import LlavaNextVideoForConditionalGeneration, LlavaNextVideoModel

# transformers 4.57 ships only the files that this one imports directly: all of them are named here.
# ruff: noqa: F401
from .baseline_selectors import random_picks
from .budget import keep_count
from .checkpoint_keys import read_base_checkpoints
from .compat_generation import GenerationCompat
from .configuration_divprune import DivPruneLlavaNextVideoConfig
from .fast_distances import cosine_distances
from .generation_divprune import DivPruneVideoHeadMixin
from .image_views import AnyResolutionMixin
from .max_min import pick_max_min
from .max_min_fast import select_diverse_tokens_of_images
from .max_min_long import pick_by_blocks
from .max_min_triton import pick_with_triton
from .no_waiting import PlaceholdersWithoutWaiting
from .prompt_counts import Prompt
from .pruning_divprune import DivPruneVideoModelMixin
from .saved_code import save_code
from .selectors import SELECTORS
from .settings import SETTINGS
from .signatures import MadeFromStock
from .token_selection import select_tokens
from .transformers_surface import check_methods


class DivPruneLlavaNextVideoModel(AnyResolutionMixin, DivPruneVideoModelMixin, LlavaNextVideoModel):
    """LLaVA-NeXT-Video without its language modelling head.

    Modifications: those of `DivPruneVideoModelMixin`, `DivPruneModelMixin` and `AnyResolutionMixin`.
    """

    config_class = DivPruneLlavaNextVideoConfig


class DivPruneLlavaNextVideoForConditionalGeneration(DivPruneVideoHeadMixin, LlavaNextVideoForConditionalGeneration):
    """LLaVA-NeXT-Video with its language modelling head.

    Modifications: those of `DivPruneVideoHeadMixin` and `DivPruneHeadMixin`.
    """

    config_class = DivPruneLlavaNextVideoConfig
    inner_class = DivPruneLlavaNextVideoModel
