# SPDX-License-Identifier: Apache-2.0
"""LLaVA-1.6 (LLaVA-NeXT) that answers from the most diverse of its visual tokens."""

from torch import nn
from transformers import LlavaNextForConditionalGeneration, LlavaNextModel, LlavaNextPreTrainedModel

# transformers 4.57 ships only the files that this one imports directly: all of them are named here.
# ruff: noqa: F401
from .baseline_selectors import select_baseline_tokens
from .configuration_divprune import DivPruneLlavaNextConfig
from .cosine_distances import cosine_distances
from .generation_divprune import DivPruneHeadMixin
from .image_views import packed_without_waiting
from .max_min_diversity import select_diverse_tokens_of_images
from .max_min_diversity_by_blocks import pick_by_blocks
from .max_min_diversity_triton import pick_with_triton
from .pruning_divprune import IMAGE, DivPruneModelMixin, extends, read_base_checkpoints
from .token_budget import keep_count


class DivPruneLlavaNextModel(DivPruneModelMixin, LlavaNextModel):
    """LLaVA-1.6 (LLaVA-NeXT) without its language modelling head.

    Modifications:
    - `get_image_features` returns the kept features of each image, (K, width), instead of all of them, (M, width). Base
      view, unpadded crops and newline rows of an image are one pool, as in the paper's code;
    - `forward` and `get_image_features` take `num_image_tokens_kept` (int64, `(num_images,)`), which the processor
      writes; without it the budget is `config.divprune_config`;
    - `select_image_tokens` is new;
    - `pack_image_features` does not wait for the vision tower;
    - a prompt that does not fit the features raises one clear `ValueError`.
    """

    config_class = DivPruneLlavaNextConfig

    def __init__(self, config, divprune_config=None):
        super().__init__(self._use(config, divprune_config))

    def pack_image_features(self, *args, **kwargs):
        """As the parent's, but nothing waits for the vision tower."""
        return packed_without_waiting(super().pack_image_features, *args, **kwargs)

    @extends(LlavaNextModel.get_image_features, "num_image_tokens_kept")
    def get_image_features(self, **kwargs):
        return self._get_kept_features(IMAGE, super().get_image_features, **kwargs)

    @extends(LlavaNextModel.get_image_features, "num_image_tokens_kept")
    def select_image_tokens(self, **kwargs):
        """Which visual tokens of each image are kept.

        Args:
            pixel_values (`torch.Tensor` of shape `(num_images, num_views, channels, height, width)`).
            image_sizes (`torch.LongTensor` of shape `(num_images, 2)`): height and width of each picture in pixels.
            num_image_tokens_kept (`torch.LongTensor` of shape `(num_images,)`, *optional*): the budget of each image;
                without it `config.divprune_config` decides.

        Returns:
            A list with one `torch.LongTensor` of shape `(K,)` per image: indices into its M visual tokens, ascending
            or in the order of picking, as `config.divprune_config.order` says.
        """
        return self._select_tokens(IMAGE, super().get_image_features, **kwargs)

    @extends(LlavaNextModel.forward, "num_image_tokens_kept")
    def forward(self, **kwargs):
        return self._forward_with_kept_features(super().forward, **kwargs)


class DivPruneLlavaNextForConditionalGeneration(DivPruneHeadMixin, LlavaNextForConditionalGeneration):
    """LLaVA-1.6 (LLaVA-NeXT) with its language modelling head.

    Modifications:
    - the inner model is `DivPruneLlavaNextModel`;
    - `forward` and `generate` take `num_image_tokens_kept`;
    - `select_image_tokens` is new;
    - beams and several answers per prompt repeat the images of a row together;
    - `generate` of transformers 5.23 encodes images in the prefill, where they are needed once;
    - `<image>` in a prompt without pixels is refused by `generate`.
    """

    config_class = DivPruneLlavaNextConfig

    def __init__(self, config, divprune_config=None):
        # Not the parent's: it would build the stock inner model first.
        LlavaNextPreTrainedModel.__init__(self, config)
        self.model = DivPruneLlavaNextModel(config, divprune_config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.post_init()

    @extends(LlavaNextForConditionalGeneration.forward, "num_image_tokens_kept")
    def forward(self, **kwargs):
        return super().forward(**kwargs)


read_base_checkpoints(DivPruneLlavaNextModel, "LlavaNextModel")
read_base_checkpoints(DivPruneLlavaNextForConditionalGeneration, "llava_next")
