# SPDX-License-Identifier: Apache-2.0
"""The parts of transformers that this code uses, as data, and a check of them when this file is imported.

A published model meets releases of transformers that its code has not seen. A missing part stops the import with its
name. A release newer than all tested ones is mentioned once.
"""

import importlib
import inspect
import re
from typing import Any

import transformers
from transformers.processing_utils import ProcessorMixin
from transformers.utils import logging


# The releases of transformers that the tests of this code ran on.
TESTED_TRANSFORMERS = ("4.57.6", "5.10.4", "5.20.2", "5.24.0")

# transformers 5.10 brought one place where placeholders are counted; 4.57 counts them in each processor's `__call__`.
HAS_IMAGE_HOOK = hasattr(ProcessorMixin, "_process_images")

# The base of a mixin: type checkers take it for the stock class that stands behind the mixin.
Stock: Any = object

# Imported names, by module.
IMPORTED = {
    "transformers": (
        "BatchFeature",
        "Cache",
        "LlavaConfig",
        "LlavaForConditionalGeneration",
        "LlavaModel",
        "LlavaNextConfig",
        "LlavaNextForConditionalGeneration",
        "LlavaNextModel",
        "LlavaNextProcessor",
        "LlavaNextVideoConfig",
        "LlavaNextVideoForConditionalGeneration",
        "LlavaNextVideoModel",
        "LlavaNextVideoProcessor",
        "LlavaProcessor",
        "PretrainedConfig",
    ),
    "transformers.generation": ("utils",),
    "transformers.image_utils": ("ChannelDimension", "get_image_size", "make_flat_list_of_images", "to_numpy_array"),
    "transformers.models.llava_next.modeling_llava_next": ("image_size_to_num_patches",),
    "transformers.processing_utils": ("ImagesKwargs", "ProcessingKwargs", "ProcessorMixin", "Unpack", "VideosKwargs"),
    "transformers.utils": ("logging",),
    "transformers.video_utils": ("make_batched_videos",),
}

# The same for families that need a later release than the others, of `transformers` itself, by stock `model_type`.
IMPORTED_BY_FAMILY = {
    "llava_onevision": (
        "LlavaOnevisionConfig",
        "LlavaOnevisionForConditionalGeneration",
        "LlavaOnevisionModel",
        "LlavaOnevisionProcessor",
    ),
}

# Methods that are called or overridden, by the class that must have them, with the parameters that they must name.
INNER_METHODS = {
    "forward": ("input_ids", "inputs_embeds", "pixel_values"),
    "get_image_features": ("pixel_values",),
    "get_input_embeddings": (),
    "get_placeholder_mask": ("input_ids", "inputs_embeds", "image_features"),
}
VIDEO_METHODS = {
    **INNER_METHODS,
    "forward": (*INNER_METHODS["forward"], "pixel_values_videos"),
    "get_video_features": (),  # what it calls its pixels has changed
    "get_placeholder_mask": (*INNER_METHODS["get_placeholder_mask"], "video_features"),
}
HEAD_METHODS: dict[str, tuple[str, ...]] = {
    "forward": ("input_ids", "pixel_values"),
    "generate": ("inputs", "generation_config"),
}
PROCESSOR_METHODS = {
    "_check_special_mm_tokens": ("text", "text_inputs", "modalities"),
    "_merge_kwargs": ("ModelProcessorKwargs", "tokenizer_init_kwargs"),
    "from_args_and_dict": ("args", "processor_dict"),
}
# From 5.10 on, in place of the first two above, which only 4.57 needs.
PROCESSOR_HOOKS = {
    "_process_images": ("images",),
    "_process_videos": ("videos",),
    "from_args_and_dict": ("args", "processor_dict"),
    "validate_inputs": ("images", "text", "videos"),
}
# From 5.0 on, in `transformers.conversion_mapping`: without them checkpoints of the stock families would load with a
# random language model.
CONVERSION = {
    "get_checkpoint_conversion_mapping": ("model_type",),
    "register_checkpoint_conversion_mapping": ("model_type_or_class_name", "mapping", "overwrite"),
}
# Overridden where a release has them: each saves time or adds comfort, and none is needed.
OPTIONAL = ("_expand_inputs_for_generation", "_get_candidate_generator", "_maybe_prepare_encoder_kwargs_for_generation")


def check_methods(owner: Any, methods: dict[str, tuple[str, ...]]) -> None:
    """Raise an `ImportError` unless a class or module has all functions of a table, with the parameters it names."""
    for name, parameters in methods.items():
        function = getattr(owner, name, None)
        if function is None or not set(parameters) <= set(inspect.signature(function).parameters):
            raise missing(f"{owner.__name__}.{name}({', '.join(parameters)})")


def check_release() -> None:
    """Raise an `ImportError` where this release of transformers lacks what configs and processors need.

    Warns once where the release is newer than all tested ones and has everything.
    """
    release, newest = major_and_minor(transformers.__version__), TESTED_TRANSFORMERS[-1]
    if release < (4, 57) or not (HAS_IMAGE_HOOK or release[0] == 4):
        raise ImportError(
            f"DivPrune models need transformers 4.57, or 5.10 and later; found {transformers.__version__}. {advice()}"
        )
    for module, names in IMPORTED.items():
        if ".modeling_" not in module:  # imported with the models, not before
            here = dir(importlib.import_module(module))
            for name in names:
                if name not in here:
                    raise missing(f"{module}.{name}")
    check_methods(ProcessorMixin, PROCESSOR_HOOKS if HAS_IMAGE_HOOK else PROCESSOR_METHODS)
    if release > major_and_minor(newest):
        logging.get_logger(__name__).warning_once(
            f"This DivPrune code was tested with transformers up to {newest}, and found all it needs in "
            f"{transformers.__version__}. If answers look wrong, compare them with those of transformers {newest}."
        )


def runs_family(release: tuple[int, int]) -> bool:
    """Tell whether this transformers is new enough for a family."""
    return major_and_minor(transformers.__version__) >= release


def check_family_release(family: str, release: tuple[int, int]) -> None:
    """Raise an `ImportError` where this transformers is older than a family needs, or lacks a class of it.

    Args:
        family: its stock `model_type`.
        release: the oldest that it runs on.
    """
    if not runs_family(release):
        raise ImportError(
            f"DivPrune models of the family {family} need transformers {'.'.join(map(str, release))} or later; found "
            f"{transformers.__version__}. Run pip install 'transformers=={TESTED_TRANSFORMERS[-1]}'."
        )
    for name in IMPORTED_BY_FAMILY.get(family, ()):
        if name not in dir(transformers):
            raise missing(f"transformers.{name}")


def major_and_minor(version: str) -> tuple[int, ...]:
    """The first two numbers of a version."""
    return tuple(map(int, re.findall(r"\d+", version)[:2]))


def missing(symbol: str) -> ImportError:
    """The error that names what a release of transformers lacks, and says what to do."""
    return ImportError(f"DivPrune needs {symbol}, which transformers {transformers.__version__} lacks. {advice()}")


def advice() -> str:
    """The releases that work, and how to get one."""
    *others, newest = TESTED_TRANSFORMERS
    return (
        f"Tested are {', '.join(others)} and {newest}: run pip install 'transformers=={newest}', or load a newer "
        "revision of this model, whose code may know this release."
    )


check_release()
