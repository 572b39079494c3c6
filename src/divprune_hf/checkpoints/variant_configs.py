"""The config files of a variant, made from those of its base."""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoModel, PretrainedConfig

from divprune_hf.checkpoints.families import Family
from divprune_hf.common.printable import error_line
from divprune_hf.remote_code.configuration_divprune import DivPruneConfig
from divprune_hf.remote_code.family_names import auto_map
from divprune_hf.remote_code.transformers_surface import TESTED_TRANSFORMERS


# Keys by which a preprocessor config says that it is one of images.
TYPES_OF_IMAGES = ("image_processor_type", "feature_extractor_type", "processor_class", "image_grid_pinpoints")

Content = dict[str, Any]  # of a JSON file


def variant_config(config: Content, family: Family, divprune_config: DivPruneConfig) -> Content:
    """Return `config.json` of a variant: the base's, with our model type, classes and settings.

    Args:
        config: the content of the base's file.
        family: its family.
        divprune_config: the settings of the pruning.
    """
    edited = {name: value for name, value in config.items() if name != "_name_or_path"}
    edited["model_type"] = family.config_class.model_type
    edited["architectures"] = [family.head_class.__name__]
    edited["auto_map"] = auto_map(family.base_model_type)
    edited["divprune_config"] = divprune_config.to_block()
    edited["divprune_tested_transformers"] = list(TESTED_TRANSFORMERS)
    return edited


def variant_processor_config(
    processor_config: Content, config: Content, family: Family, divprune_config: DivPruneConfig
) -> Content:
    """Return `processor_config.json` of a variant: the base's, completed, with our class and settings.

    Args:
        processor_config: the content of the base's file; empty if it has none.
        config: the content of the base's `config.json`.
        family: its family.
        divprune_config: the settings of the pruning.
    """
    edited = completed_processor_config(processor_config, config, family)
    edited["processor_class"] = family.processor_class.__name__
    edited["auto_map"] = {"AutoProcessor": family.processor_reference}
    edited["divprune_config"] = divprune_config.to_block()
    return edited


def variant_preprocessor_configs(
    preprocessor_config: Content | None, video_config: Content | None, processor_config: Content, family: Family
) -> dict[str, Content]:
    """Return the preprocessor configs of a variant that have to differ from the base's.

    transformers finds the class of an unnamed image or video processor by the model type, which a variant changes: such
    a config has to name its class.

    Args:
        preprocessor_config, video_config: the contents of the base's `preprocessor_config.json` and
            `video_preprocessor_config.json`, or None.
        processor_config: the content of its `processor_config.json`, which may hold both.
        family: its family.

    Returns:
        The files to write, by name.
    """
    edited: dict[str, Content] = {}
    named = {"image_processor_type", "feature_extractor_type"} & set(preprocessor_config or {})
    if preprocessor_config and not named and "image_processor" not in processor_config:
        image_type = {"image_processor_type": family.image_processor_type}
        edited["preprocessor_config.json"] = {**preprocessor_config, **image_type}
    if family.takes_videos and "video_processor" not in processor_config:
        settings = video_config if video_config is not None else preprocessor_config or {}
        if video_config is None or "video_processor_type" not in video_config:
            kept = {name: value for name, value in settings.items() if name not in TYPES_OF_IMAGES}
            video_type = {"video_processor_type": family.video_processor_type}
            edited["video_preprocessor_config.json"] = {**kept, **video_type}
    return edited


def completed_processor_config(processor_config: Content, config: Content, family: Family) -> Content:
    """Return a processor config with every setting that the number of visual tokens depends on.

    Older checkpoints lack some of them, and transformers guesses.
    """
    completed = dict(processor_config)
    stock, taken = stock_config(config, family), inspect.signature(family.processor_class.__init__).parameters
    for name, of_stock in COMPLETED.items():
        if name in taken and completed.get(name) is None:
            completed[name] = of_stock(stock)
    return completed


# Settings of a processor that follow from the stock config of a model, for the families whose processor has them.
COMPLETED: dict[str, Callable[[Any], Any]] = {
    "patch_size": lambda stock: stock.vision_config.patch_size,
    "num_additional_image_tokens": lambda stock: num_additional_image_tokens(stock.vision_config),
    "num_image_tokens": lambda stock: num_tokens_of_view(stock.vision_config),
    "vision_feature_select_strategy": lambda stock: stock.vision_feature_select_strategy,
    "vision_aspect_ratio": lambda stock: stock.vision_aspect_ratio,
}


def stock_config(config: Content, family: Family) -> PretrainedConfig:
    """Return the stock config object of a base, or of the base of a variant; raise a `ValueError` if there is none."""
    dropped = ("model_type", "auto_map", "divprune_config", "divprune_tested_transformers", "architectures")
    settings = {name: value for name, value in config.items() if name not in dropped}
    try:
        return CONFIG_MAPPING[family.base_model_type](**settings)
    except Exception as error:  # the errors of transformers' config checks have no common class
        raise ValueError(f"config.json is not one of a LLaVA checkpoint ({error_line(error)}).") from None


def num_additional_image_tokens(vision_config: PretrainedConfig) -> int:
    """Count the tokens of a vision tower besides its patches, such as a CLS token."""
    return num_tokens_of_view(vision_config) - (vision_config.image_size // vision_config.patch_size) ** 2


def num_tokens_of_view(vision_config: PretrainedConfig) -> int:
    """Count the tokens that a vision tower makes of its square input.

    The count comes from a forward on the meta device, which computes shapes only.

    Raises:
        ValueError: no vision tower can be built from the config.
    """
    size = vision_config.image_size
    try:
        with torch.device("meta"), torch.no_grad():
            tower = AutoModel.from_config(vision_config)
            pixel_values = torch.empty(1, getattr(vision_config, "num_channels", 3), size, size)
            return tower(pixel_values).last_hidden_state.shape[1]
    except Exception as error:  # whatever a tower of impossible sizes raises
        raise ValueError(f"vision_config is not one of a working vision tower ({error_line(error)}).") from None
