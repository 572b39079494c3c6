# SPDX-License-Identifier: Apache-2.0
"""Settings of the pruning: `DivPruneConfig`, and one small config per model family that holds it."""

from .transformers_surface import TESTED_TRANSFORMERS, Stock  # first: it says what a release of transformers lacks


# isort: split
from os import PathLike
from typing import Any

from transformers import LlavaConfig, LlavaNextConfig, LlavaNextVideoConfig, PretrainedConfig

from .budget import check_one_budget
from .family_names import auto_map
from .saved_code import auto_map_of_own_folder, save_code
from .settings import BUDGETS, IMAGE_BUDGET, SETTINGS, VIDEO_BUDGET, check_settings


# isort: split
# transformers 4.57 ships only what this file imports: tests/remote_code/test_direct_imports.py writes
from .selectors import Images  # noqa: F401


class DivPruneConfig(PretrainedConfig):
    """The settings of the pruning: a budget of visual tokens for each image and video, and how they are chosen.

    Takes the settings of the table `SETTINGS` (settings.py) by name, such as `retention_ratio=0.098` or
    `num_tokens=64`, and has one attribute for each. Where no budget of an image is given, `retention_ratio` is 0.098
    (56 of LLaVA-1.5's 576, the paper's setting); 1.0 keeps everything and gives the stock model. An image that has
    fewer than `num_tokens` visual tokens keeps all it has.

    Raises:
        ValueError: two budgets of one kind, an impossible value, or an unknown name.
    """

    model_type = "divprune"

    def __init__(self, **settings: Any) -> None:
        for name in ("model_type", "transformers_version"):  # a stored config names them
            settings.pop(name, None)
        check_settings(settings)
        for names in BUDGETS:
            check_one_budget({name: settings.get(name) for name in names})
        if all(settings.get(name) is None for name in IMAGE_BUDGET):
            settings["retention_ratio"] = SETTINGS["retention_ratio"].default
        super().__init__()
        for name, setting in SETTINGS.items():
            value = settings.get(name)
            if value is None and setting.budget_of is None:
                value = setting.default
            setattr(self, name, None if value is None else setting.kind(value))
        self._is_made = True

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute; refuse a budget of a finished config, and a name that is no setting.

        The model alone would learn of such a budget, and the processor's counts win. So it would have no effect: this
        is how vLLM applies `hf_overrides`.

        Raises:
            ValueError: see above.
        """
        if getattr(self, "_is_made", False):
            if name in (*IMAGE_BUDGET, *VIDEO_BUDGET):
                raise ValueError(
                    f"Got {name}={value!r} for the config of a model alone, expected one for its processor too: "
                    f"from_pretrained(..., divprune_config={{{name!r}: {value!r}}}) of both, set_budget(model, "
                    f"processor, {name}={value!r}), or in vLLM mm_processor_kwargs={{{name!r}: {value!r}}}."
                )
            if not hasattr(self, name) and not name.startswith("_"):
                raise ValueError(f"Got divprune setting {name!r}, expected one of {sorted(SETTINGS)}.")
        super().__setattr__(name, value)

    @property
    def budget(self) -> dict[str, Any]:
        """The budget of an image: the keyword arguments of `keep_count`."""
        return {"retention_ratio": self.retention_ratio, "num_tokens": self.num_tokens}

    @property
    def video_budget(self) -> dict[str, Any]:
        """The budget of a video: the keyword arguments of `keep_count`."""
        return {"retention_ratio": self.video_retention_ratio, "num_tokens": self.video_num_tokens}

    def to_block(self) -> dict[str, Any]:
        """The settings as config files store them: a plain dict, without what is not set or is left out as default."""
        block = {name: getattr(self, name) for name in SETTINGS}
        return {
            name: value
            for name, value in block.items()
            if value is not None and (SETTINGS[name].written or value != SETTINGS[name].default)
        }

    def to_dict(self) -> dict[str, Any]:
        # The stock config drops `transformers_version` from the configs it holds, and expects to find it.
        stock = super().to_dict()
        return {**self.to_block(), "transformers_version": stock["transformers_version"]}

    @classmethod
    def merged(cls, stored: Any = None, override: Any = None, takes_videos: bool = False) -> "DivPruneConfig":
        """Return the config that results when `override` updates what is `stored`.

        Args:
            stored (`DivPruneConfig`, `dict` or `None`): what a checkpoint says.
            override (`DivPruneConfig`, `dict` or `None`): what the caller says. It updates setting by setting, and
                naming one budget clears the other.
            takes_videos (`bool`): whether the model takes videos. If so a budget for them is filled in, and if not
                one is refused.
        """
        stored, override = settings_of(stored), settings_of(override)
        cleared = {name for names in BUDGETS if any(name in override for name in names) for name in names}
        settings = {name: value for name, value in stored.items() if name not in cleared} | override
        video_budget = [name for name in VIDEO_BUDGET if name in settings]
        if video_budget and not takes_videos:
            raise ValueError(
                f"Got {video_budget[0]} for a model that takes no videos, expected a budget for images only."
            )
        if takes_videos and not video_budget:
            settings["video_retention_ratio"] = SETTINGS["video_retention_ratio"].default
        return cls(**settings)


def settings_of(block: Any) -> dict[str, Any]:
    """The settings that a `dict`, a `DivPruneConfig` or None gives, by name.

    Configs are read by name, not by class: remote code and an imported package each bring a `DivPruneConfig`.
    """
    if isinstance(block, PretrainedConfig):
        block = {name: getattr(block, name, None) for name in SETTINGS}
    elif block is not None and not isinstance(block, dict):
        raise ValueError(f"Got divprune_config={block!r}, expected a dict or a DivPruneConfig.")
    return {name: value for name, value in (block or {}).items() if value is not None}


def overridden_config(config: PretrainedConfig, divprune_config: Any) -> PretrainedConfig:
    """Apply the override that `from_pretrained(..., config=config, divprune_config=...)` hands to `__init__`."""
    if divprune_config is not None:
        blocks = config.divprune_config, divprune_config
        config.divprune_config = DivPruneConfig.merged(*blocks, takes_videos=config.takes_videos)
        check_layer_exists(config.divprune_config, config.get_text_config())
    return config


def check_layer_exists(divprune_config: DivPruneConfig, text_config: PretrainedConfig) -> None:
    """Raise a `ValueError` unless the language model has the layer in front of which tokens are to be dropped."""
    if divprune_config.layer and divprune_config.layer >= text_config.num_hidden_layers:
        raise ValueError(
            f"Got layer={divprune_config.layer} for a language model of {text_config.num_hidden_layers} layers, "
            f"expected 0 to {text_config.num_hidden_layers - 1}."
        )


class DivPruneConfigMixin(Stock):
    """Common part of the families' configs: they hold a `DivPruneConfig` as `divprune_config`, and write it out whole.

    It is not a sub-config in transformers' sense: attention and dtype settings must not leak into it.
    """

    takes_videos = False

    def _hold(self, divprune_config: Any, family: str) -> None:
        self.divprune_config = DivPruneConfig.merged(divprune_config, takes_videos=self.takes_videos)
        check_layer_exists(self.divprune_config, self.get_text_config())
        # The releases that this code was tested with; a file may speak of another copy of the code.
        self.divprune_tested_transformers = list(TESTED_TRANSFORMERS)
        if getattr(self, "auto_map", None) is None:
            self.auto_map = auto_map(family)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Make a config as the stock class does, which does not know that naming one budget clears the other."""
        if "divprune_config" in kwargs:
            blocks = config_dict.get("divprune_config"), kwargs.pop("divprune_config")
            merged = DivPruneConfig.merged(*blocks, takes_videos=cls.takes_videos)
            config_dict = {**config_dict, "divprune_config": merged}
        return super().from_dict(config_dict, **kwargs)

    def save_pretrained(self, save_directory: str | PathLike, **kwargs: Any) -> None:
        """Save the config as the stock class does, with all code beside it; models save their config by it."""
        if self._auto_class is not None:
            self.auto_map = auto_map_of_own_folder(self.auto_map)
        super().save_pretrained(save_directory, **kwargs)
        save_code(self, save_directory)

    def to_diff_dict(self) -> dict[str, Any]:
        """Return what the stock config writes, with the settings as config files store them."""
        stock = super().to_diff_dict()
        return {**stock, "divprune_config": self.divprune_config.to_block()}


class DivPruneLlavaConfig(DivPruneConfigMixin, LlavaConfig):  # type: ignore[misc]  # arguments come by name
    """Config of LLaVA-1.5 with pruned visual tokens.

    Modifications:
    - `divprune_config` (`DivPruneConfig` or `dict`, *optional*): the budget.
    """

    model_type = "divprune_llava"

    def __init__(
        self, vision_config: Any = None, text_config: Any = None, divprune_config: Any = None, **kwargs: Any
    ) -> None:
        super().__init__(vision_config=vision_config, text_config=text_config, **kwargs)
        self._hold(divprune_config, "llava")


class DivPruneLlavaNextConfig(DivPruneConfigMixin, LlavaNextConfig):  # type: ignore[misc]  # arguments come by name
    """Config of LLaVA-1.6 (LLaVA-NeXT) with pruned visual tokens.

    Modifications:
    - `divprune_config` (`DivPruneConfig` or `dict`, *optional*): the budget, which holds for an image as a whole: its
      base view, its crops and their newline tokens are one pool.
    """

    model_type = "divprune_llava_next"

    def __init__(
        self, vision_config: Any = None, text_config: Any = None, divprune_config: Any = None, **kwargs: Any
    ) -> None:
        super().__init__(vision_config=vision_config, text_config=text_config, **kwargs)
        self._hold(divprune_config, "llava_next")


class DivPruneLlavaNextVideoConfig(DivPruneConfigMixin, LlavaNextVideoConfig):  # type: ignore[misc]  # arguments come by name
    """Config of LLaVA-NeXT-Video with pruned visual tokens.

    Modifications:
    - `divprune_config` (`DivPruneConfig` or `dict`, *optional*): the budget of an image, as in LLaVA-1.6, and that of a
      video, which holds for all its frames together.
    """

    model_type = "divprune_llava_next_video"
    takes_videos = True

    def __init__(
        self, vision_config: Any = None, text_config: Any = None, divprune_config: Any = None, **kwargs: Any
    ) -> None:
        super().__init__(vision_config=vision_config, text_config=text_config, **kwargs)
        self._hold(divprune_config, "llava_next_video")
