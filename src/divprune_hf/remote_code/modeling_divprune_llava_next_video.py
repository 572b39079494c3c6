# SPDX-License-Identifier: Apache-2.0
"""LLaVA-NeXT-Video that answers from the most diverse of its visual tokens."""

from torch import nn
from transformers import LlavaNextVideoForConditionalGeneration, LlavaNextVideoModel, LlavaNextVideoPreTrainedModel

# transformers 4.57 ships only the files that this one imports directly: all of them are named here.
# ruff: noqa: F401
from .baseline_selectors import select_baseline_tokens
from .configuration_divprune import DivPruneLlavaNextVideoConfig
from .cosine_distances import cosine_distances
from .generation_divprune import DivPruneHeadMixin
from .image_views import packed_without_waiting
from .max_min_diversity import select_diverse_tokens_of_images
from .max_min_diversity_by_blocks import pick_by_blocks
from .max_min_diversity_triton import pick_with_triton
from .pruning_divprune import IMAGE, VIDEO, DivPruneModelMixin, extends, read_base_checkpoints
from .token_budget import keep_count


class DivPruneLlavaNextVideoModel(DivPruneModelMixin, LlavaNextVideoModel):
    """LLaVA-NeXT-Video without its language modelling head.

    Modifications:
    - `get_image_features` returns the kept features of each image, (K, width), as in `DivPruneLlavaNextModel`;
    - `get_video_features` returns the kept features of each video, (K, width), instead of all of them, (frames, M /
      frames, width). All frames of a video are one pool, so what repeats from frame to frame is what is dropped;
    - `forward`, `get_image_features` and `get_video_features` take `num_image_tokens_kept` (int64, `(num_images,)`) and
      `num_video_tokens_kept` (int64, `(num_videos,)`), which the processor writes; without them the budgets are those
      of `config.divprune_config`;
    - `select_image_tokens` and `select_video_tokens` are new;
    - `pack_image_features` does not wait for the vision tower;
    - a prompt that does not fit the features raises one clear `ValueError`.
    """

    config_class = DivPruneLlavaNextVideoConfig

    def __init__(self, config, divprune_config=None):
        super().__init__(self._use(config, divprune_config))

    def pack_image_features(self, *args, **kwargs):
        """As the parent's, but nothing waits for the vision tower."""
        return packed_without_waiting(super().pack_image_features, *args, **kwargs)

    @extends(LlavaNextVideoModel.get_image_features, "num_image_tokens_kept")
    def get_image_features(self, **kwargs):
        return self._get_kept_features(IMAGE, super().get_image_features, **kwargs)

    @extends(LlavaNextVideoModel.get_image_features, "num_image_tokens_kept")
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

    @extends(LlavaNextVideoModel.get_video_features, "num_video_tokens_kept")
    def get_video_features(self, **kwargs):
        return self._get_kept_features(VIDEO, super().get_video_features, **kwargs)

    def select_video_tokens(self, pixel_values_videos, num_video_tokens_kept=None, **kwargs):
        """Which visual tokens of each video are kept.

        Args:
            pixel_values_videos (`torch.Tensor` of shape `(num_videos, num_frames, channels, height, width)`).
            num_video_tokens_kept (`torch.LongTensor` of shape `(num_videos,)`, *optional*): the budget of each video;
                without it `config.divprune_config` decides.

        Returns:
            A list with one `torch.LongTensor` of shape `(K,)` per video: indices into its M visual tokens, frame by
            frame, ascending or in the order of picking, as `config.divprune_config.order` says.
        """
        # By position: transformers 4.57 calls the pixels of a video `pixel_values`.
        return self._select_video_tokens(pixel_values_videos, num_video_tokens_kept=num_video_tokens_kept, **kwargs)

    @extends(LlavaNextVideoModel.get_video_features, "num_video_tokens_kept")
    def _select_video_tokens(self, **kwargs):
        return self._select_tokens(VIDEO, super().get_video_features, **kwargs)

    @extends(LlavaNextVideoModel.forward, "num_image_tokens_kept", "num_video_tokens_kept")
    def forward(self, **kwargs):
        return self._forward_with_kept_features(super().forward, **kwargs)


class DivPruneLlavaNextVideoForConditionalGeneration(DivPruneHeadMixin, LlavaNextVideoForConditionalGeneration):
    """LLaVA-NeXT-Video with its language modelling head.

    Modifications:
    - the inner model is `DivPruneLlavaNextVideoModel`;
    - `forward` and `generate` take `num_image_tokens_kept` and `num_video_tokens_kept`;
    - `select_image_tokens` and `select_video_tokens` are new;
    - beams and several answers per prompt repeat the images and videos of a row together;
    - `generate` of transformers 5.23 encodes images and videos in the prefill, where they are needed once;
    - `<image>` or `<video>` in a prompt without pixels is refused by `generate`.
    """

    config_class = DivPruneLlavaNextVideoConfig

    def __init__(self, config, divprune_config=None):
        # Not the parent's: it would build the stock inner model first.
        LlavaNextVideoPreTrainedModel.__init__(self, config)
        self.model = DivPruneLlavaNextVideoModel(config, divprune_config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.post_init()

    def select_video_tokens(self, *args, **kwargs):
        """See the inner model's `select_video_tokens`."""
        return self.model.select_video_tokens(*args, **kwargs)

    @extends(LlavaNextVideoForConditionalGeneration.forward, "num_image_tokens_kept", "num_video_tokens_kept")
    def forward(self, **kwargs):
        return super().forward(**kwargs)


read_base_checkpoints(DivPruneLlavaNextVideoModel, "LlavaNextVideoModel")
read_base_checkpoints(DivPruneLlavaNextVideoForConditionalGeneration, "llava_next_video")
