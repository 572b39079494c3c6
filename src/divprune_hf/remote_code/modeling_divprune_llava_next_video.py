# SPDX-License-Identifier: Apache-2.0
"""LLaVA-NeXT-Video that answers from the most diverse of its visual tokens."""

from transformers import LlavaNextVideoForConditionalGeneration, LlavaNextVideoModel

# transformers 4.57 ships only the files that this one imports directly: all of them are named here.
# ruff: noqa: F401
from .baseline_selectors import select_baseline_tokens
from .checkpoint_keys import read_base_checkpoints
from .compat_generation import GenerationCompat
from .configuration_divprune import DivPruneLlavaNextVideoConfig
from .cosine_distances import cosine_distances
from .generation_divprune import DivPruneVideoHeadMixin
from .image_views import AnyResolutionMixin
from .max_min_diversity import select_diverse_tokens_of_images
from .max_min_diversity_by_blocks import pick_by_blocks
from .max_min_diversity_triton import pick_with_triton
from .no_waiting import PlaceholdersWithoutWaiting
from .prompt_counts import Prompt
from .pruning_divprune import DivPruneVideoModelMixin
from .signatures import by_name
from .token_budget import keep_count
from .transformers_surface import check_methods


class DivPruneLlavaNextVideoModel(AnyResolutionMixin, DivPruneVideoModelMixin, LlavaNextVideoModel):
    """LLaVA-NeXT-Video without its language modelling head.

    Modifications:
    - `get_image_features` returns the kept features of each image, (K, width), instead of all of them, (M, width). Base
      view, unpadded crops and newline rows of an image are one pool, as in the paper's code;
    - `get_video_features` returns the kept features of each video, (K, width). All frames of a video are one pool, so
      what repeats from frame to frame is what is dropped;
    - `forward` and the methods above take `num_image_tokens_kept` and `num_video_tokens_kept` (int64, one count per image or video), which the
      processor writes; without them the budgets are `config.divprune_config`;
    - `select_image_tokens` and `select_video_tokens` are new;
    - `pack_image_features` does not wait for the vision tower, and `image_sizes` are checked;
    - a prompt that does not fit the features raises one clear `ValueError`, row by row.
    """

    config_class = DivPruneLlavaNextVideoConfig


class DivPruneLlavaNextVideoForConditionalGeneration(DivPruneVideoHeadMixin, LlavaNextVideoForConditionalGeneration):
    """LLaVA-NeXT-Video with its language modelling head.

    Modifications:
    - the inner model is `DivPruneLlavaNextVideoModel`;
    - `forward` and `generate` take `num_image_tokens_kept` and `num_video_tokens_kept`;
    - `select_image_tokens` and `select_video_tokens` are new;
    - `generate` compares the placeholders of each row with images and counts before it encodes anything;
    - before transformers 5.23, beams and several answers per prompt repeat the images of a row together.
    """

    config_class = DivPruneLlavaNextVideoConfig
    inner_class = DivPruneLlavaNextVideoModel
