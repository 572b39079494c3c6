# SPDX-License-Identifier: Apache-2.0
"""LLaVA-1.6 (LLaVA-NeXT) that answers from the most diverse of its visual tokens."""

from transformers import LlavaNextForConditionalGeneration, LlavaNextModel

# transformers 4.57 ships only the files that this one imports directly: all of them are named here.
# ruff: noqa: F401
from .baseline_selectors import select_baseline_tokens
from .checkpoint_keys import read_base_checkpoints
from .compat_generation import GenerationCompat
from .configuration_divprune import DivPruneLlavaNextConfig
from .cosine_distances import cosine_distances
from .generation_divprune import DivPruneHeadMixin
from .image_views import AnyResolutionMixin
from .max_min_diversity import select_diverse_tokens_of_images
from .max_min_diversity_by_blocks import pick_by_blocks
from .max_min_diversity_triton import pick_with_triton
from .no_waiting import PlaceholdersWithoutWaiting
from .prompt_counts import Prompt
from .pruning_divprune import DivPruneModelMixin
from .signatures import by_name
from .token_budget import keep_count
from .transformers_surface import check_methods


class DivPruneLlavaNextModel(AnyResolutionMixin, DivPruneModelMixin, LlavaNextModel):
    """LLaVA-1.6 (LLaVA-NeXT) without its language modelling head.

    Modifications:
    - `get_image_features` returns the kept features of each image, (K, width), instead of all of them, (M, width). Base
      view, unpadded crops and newline rows of an image are one pool, as in the paper's code;
    - `forward` and the methods above take `num_image_tokens_kept` (int64, one count per image), which the
      processor writes; without it the budget is `config.divprune_config`;
    - `select_image_tokens` is new;
    - `pack_image_features` does not wait for the vision tower, and `image_sizes` are checked;
    - a prompt that does not fit the features raises one clear `ValueError`, row by row.
    """

    config_class = DivPruneLlavaNextConfig


class DivPruneLlavaNextForConditionalGeneration(DivPruneHeadMixin, LlavaNextForConditionalGeneration):
    """LLaVA-1.6 (LLaVA-NeXT) with its language modelling head.

    Modifications:
    - the inner model is `DivPruneLlavaNextModel`;
    - `forward` and `generate` take `num_image_tokens_kept`;
    - `select_image_tokens` is new;
    - `generate` compares the placeholders of each row with images and counts before it encodes anything;
    - before transformers 5.23, beams and several answers per prompt repeat the images of a row together.
    """

    config_class = DivPruneLlavaNextConfig
    inner_class = DivPruneLlavaNextModel
