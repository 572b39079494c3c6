# SPDX-License-Identifier: Apache-2.0
"""Settings of the pruning: `DivPruneConfig`, and one small config per model family that holds it."""

from .transformers_surface import TESTED_TRANSFORMERS  # first: it says what a release of transformers lacks


# isort: split
from typing import Any

from transformers import LlavaConfig, LlavaNextConfig, LlavaNextVideoConfig, PretrainedConfig

from .saved_code import auto_map_of_own_folder, save_code
from .selectors import check_selector
from .token_budget import check_budget, check_order


DEFAULT_RETENTION_RATIO = 0.098
DEFAULT_VIDEO_RETENTION_RATIO = 0.1

# A budget is one of two settings.
BUDGET = ("retention_ratio", "num_tokens")
VIDEO_BUDGET = ("video_retention_ratio", "video_num_tokens")
# Settings that config files name only where they differ from these: who runs DivPrune need not meet its baselines.
UNWRITTEN = {"selector": "max_min", "seed": 0}


class DivPruneConfig(PretrainedConfig):
    """The pruning budget of a model: a share of the visual tokens of each image and video, or a number of them.

    Args:
        retention_ratio (`float`, *optional*): share of the visual tokens of an image to keep, above 0 and at most 1.
            Defaults to 0.098 (56 of LLaVA-1.5's 576, the paper's setting) when `num_tokens` is not given either. 1.0
            keeps everything and gives the stock model.
        num_tokens (`int`, *optional*): number of visual tokens of an image to keep, at least 1. An image that has
            fewer keeps all it has.
        order (`str`): `"raster"` feeds the kept tokens in image order, `"selection"` in the order of picking, as the
            paper's Table 1 did.
        video_retention_ratio (`float`, *optional*): share of the visual tokens of a video to keep, all its frames
            together. A model that takes videos keeps 0.1 (115 of 8 frames' 1152, the paper's setting) when
            `video_num_tokens` is not given either.
        video_num_tokens (`int`, *optional*): number of visual tokens of a video to keep, at least 1.
        selector (`str`): `"max_min"` keeps the most diverse tokens (DivPrune). The baselines to compare it with are
            `"random"` and `"uniform"`, which takes every M/K-th token.
        seed (`int`): what `"random"` draws by, besides the picture itself.

    Raises:
        ValueError: both budgets, an impossible budget, an unknown order or selector, an unknown name.
    """

    model_type = "divprune"

    def __init__(
        self,
        retention_ratio=None,
        num_tokens=None,
        order="raster",
        video_retention_ratio=None,
        video_num_tokens=None,
        selector="max_min",
        seed=0,
        **kwargs,
    ):
        unknown = sorted(set(kwargs) - {"model_type", "transformers_version"})
        if unknown:
            raise ValueError(f"Got divprune settings {unknown}, expected only {sorted(self.settings())}.")
        check_budget(retention_ratio, num_tokens)
        check_budget(video_retention_ratio, video_num_tokens, prefix="video_")
        check_order(order)
        check_selector(selector, seed)
        if retention_ratio is None and num_tokens is None:
            retention_ratio = DEFAULT_RETENTION_RATIO
        super().__init__()
        self.retention_ratio = None if retention_ratio is None else float(retention_ratio)
        self.num_tokens = None if num_tokens is None else int(num_tokens)
        self.order = order
        self.video_retention_ratio = None if video_retention_ratio is None else float(video_retention_ratio)
        self.video_num_tokens = None if video_num_tokens is None else int(video_num_tokens)
        self.selector = selector
        self.seed = int(seed)

    @staticmethod
    def settings():
        """The names of all settings."""
        return (*BUDGET, "order", *VIDEO_BUDGET, *UNWRITTEN)

    @property
    def budget(self):
        """The budget of an image: the keyword arguments of `keep_count`, as a dict."""
        return {"retention_ratio": self.retention_ratio, "num_tokens": self.num_tokens}

    @property
    def video_budget(self):
        """The budget of a video: the keyword arguments of `keep_count`, as a dict."""
        return {"retention_ratio": self.video_retention_ratio, "num_tokens": self.video_num_tokens}

    def to_block(self):
        """The settings as config files store them: a plain dict, without what is not set or goes without saying."""
        block = {name: getattr(self, name) for name in self.settings() if getattr(self, name) is not None}
        return {name: value for name, value in block.items() if value != UNWRITTEN.get(name)}

    def to_dict(self):
        # The stock config drops `transformers_version` from the configs it holds, and expects to find it.
        stock = super().to_dict()
        return {**self.to_block(), "transformers_version": stock["transformers_version"]}

    @classmethod
    def merged(cls, stored=None, override=None, takes_videos=False):
        """The config that results when `override` updates what is `stored`.

        Args:
            stored (`DivPruneConfig`, `dict` or `None`): what a checkpoint says.
            override (`DivPruneConfig`, `dict` or `None`): what the caller says. It updates setting by setting, and
                naming one budget clears the other.
            takes_videos (`bool`): whether the model takes videos. If so a budget for them is filled in, and if not
                one is refused.

        Returns:
            A new `DivPruneConfig`.
        """
        blocks = []
        for block in (stored, override):
            if isinstance(block, PretrainedConfig):
                # By name, not by class: remote code and an imported package each bring a `DivPruneConfig`.
                block = {name: getattr(block, name, None) for name in cls.settings()}
            elif block is not None and not isinstance(block, dict):
                raise ValueError(f"Got divprune_config={block!r}, expected a dict or a DivPruneConfig.")
            blocks.append({name: value for name, value in (block or {}).items() if value is not None})
        stored, override = blocks
        for budget in (BUDGET, VIDEO_BUDGET):
            if any(name in override for name in budget):
                stored = {name: value for name, value in stored.items() if name not in budget}
        block = {**stored, **override}
        video_budget = [name for name in VIDEO_BUDGET if name in block]
        if video_budget and not takes_videos:
            raise ValueError(
                f"Got {video_budget[0]} for a model that takes no videos, expected a budget for images only."
            )
        if takes_videos and not video_budget:
            block["video_retention_ratio"] = DEFAULT_VIDEO_RETENTION_RATIO
        return cls(**block)


def auto_map(family):
    """Return where transformers finds the classes of a family inside a model repo, by Auto class."""
    name, module = {
        "llava": ("DivPruneLlava", "modeling_divprune_llava"),
        "llava_next": ("DivPruneLlavaNext", "modeling_divprune_llava_next"),
        "llava_next_video": ("DivPruneLlavaNextVideo", "modeling_divprune_llava_next_video"),
    }[family]
    head = f"{module}.{name}ForConditionalGeneration"
    return {
        "AutoConfig": f"configuration_divprune.{name}Config",
        "AutoModel": f"{module}.{name}Model",
        "AutoModelForImageTextToText": head,
        # transformers 4.57 looks for the first of these two, transformers 5 for the second.
        "AutoModelForVision2Seq": head,
        "AutoModelForMultimodalLM": head,
    }


def overridden_config(config: PretrainedConfig, divprune_config: Any) -> PretrainedConfig:
    """Apply the override that `from_pretrained(..., config=config, divprune_config=...)` hands to `__init__`."""
    if divprune_config is not None:
        blocks = config.divprune_config, divprune_config
        config.divprune_config = DivPruneConfig.merged(*blocks, takes_videos=config.takes_videos)
    return config


class DivPruneConfigMixin:
    """Common part of the families' configs: they hold a `DivPruneConfig` as `divprune_config`, and write it out whole.

    It is not a sub-config in transformers' sense: attention and dtype settings must not leak into it.
    """

    takes_videos = False

    def _hold(self, divprune_config, family):
        self.divprune_config = DivPruneConfig.merged(divprune_config, takes_videos=self.takes_videos)
        # What the code that runs, and is saved along, was tested with; not what a file says of other code.
        self.divprune_tested_transformers = list(TESTED_TRANSFORMERS)
        if getattr(self, "auto_map", None) is None:
            self.auto_map = auto_map(family)

    @classmethod
    def from_dict(cls, config_dict, **kwargs):
        # The stock update of a held config cannot know that naming one budget clears the other.
        if "divprune_config" in kwargs:
            blocks = config_dict.get("divprune_config"), kwargs.pop("divprune_config")
            merged = DivPruneConfig.merged(*blocks, takes_videos=cls.takes_videos)
            config_dict = {**config_dict, "divprune_config": merged}
        return super().from_dict(config_dict, **kwargs)

    def save_pretrained(self, save_directory, **kwargs):
        """As the stock config's, with all code beside it. Models save their config by it, so their code comes too."""
        if self._auto_class is not None:
            self.auto_map = auto_map_of_own_folder(self.auto_map)
        super().save_pretrained(save_directory, **kwargs)
        save_code(self, save_directory)

    def to_diff_dict(self):
        return {**super().to_diff_dict(), "divprune_config": self.divprune_config.to_block()}


class DivPruneLlavaConfig(DivPruneConfigMixin, LlavaConfig):
    """Config of LLaVA-1.5 with pruned visual tokens.

    Modifications:
    - `divprune_config` (`DivPruneConfig` or `dict`, *optional*): the budget.
    """

    model_type = "divprune_llava"

    def __init__(self, vision_config=None, text_config=None, divprune_config=None, **kwargs):
        super().__init__(vision_config=vision_config, text_config=text_config, **kwargs)
        self._hold(divprune_config, "llava")


class DivPruneLlavaNextConfig(DivPruneConfigMixin, LlavaNextConfig):
    """Config of LLaVA-1.6 (LLaVA-NeXT) with pruned visual tokens.

    Modifications:
    - `divprune_config` (`DivPruneConfig` or `dict`, *optional*): the budget, which holds for an image as a whole: its
      base view, its crops and their newline tokens are one pool.
    """

    model_type = "divprune_llava_next"

    def __init__(self, vision_config=None, text_config=None, divprune_config=None, **kwargs):
        super().__init__(vision_config=vision_config, text_config=text_config, **kwargs)
        self._hold(divprune_config, "llava_next")


class DivPruneLlavaNextVideoConfig(DivPruneConfigMixin, LlavaNextVideoConfig):
    """Config of LLaVA-NeXT-Video with pruned visual tokens.

    Modifications:
    - `divprune_config` (`DivPruneConfig` or `dict`, *optional*): the budget of an image, as in LLaVA-1.6, and that of a
      video, which holds for all its frames together.
    """

    model_type = "divprune_llava_next_video"
    takes_videos = True

    def __init__(self, vision_config=None, text_config=None, divprune_config=None, **kwargs):
        super().__init__(vision_config=vision_config, text_config=text_config, **kwargs)
        self._hold(divprune_config, "llava_next_video")
