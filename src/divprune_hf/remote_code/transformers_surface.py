# SPDX-License-Identifier: Apache-2.0
"""All that this code needs of transformers, as data, and the check that it is there.

A published model meets releases of transformers that its code has not seen. What breaks must break loudly: a missing
name stops the import, and a release newer than the tested ones is named once.
"""

import importlib
import inspect
from typing import Any

import transformers
from packaging.version import Version
from transformers.processing_utils import ProcessorMixin
from transformers.utils import logging


# The releases of transformers that the tests of this code ran on.
TESTED_TRANSFORMERS = ("4.57.6", "5.10.4", "5.20.2", "5.24.0")

# transformers 5.10 brought one place where placeholders are counted; 4.57 counts them in each processor's `__call__`.
HAS_IMAGE_HOOK = hasattr(ProcessorMixin, "_process_images")

# Names in `transformers`.
NAMES = (
    "AutoProcessor",
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
)

# What a family's stock inner model must have: methods, and the parameters that they must name.
INNER_METHODS = {
    "forward": ("input_ids", "inputs_embeds", "pixel_values"),
    "get_image_features": ("pixel_values",),
    "get_input_embeddings": (),
    "get_placeholder_mask": ("input_ids", "inputs_embeds", "image_features"),
}
# The same for models that take videos; what `get_video_features` calls its pixels has changed.
VIDEO_METHODS = {
    "forward": ("pixel_values_videos",),
    "get_video_features": (),
    "get_placeholder_mask": ("video_features",),
}
# The same for the model with the language modelling head.
HEAD_METHODS = {"forward": ("input_ids", "pixel_values"), "generate": ("inputs", "generation_config")}

# The same for functions and processors, by module. Of these two tables one holds, by `HAS_IMAGE_HOOK`.
PROCESSING = {
    "transformers.processing_utils": {
        "ProcessorMixin._process_images": ("images",),
        "ProcessorMixin._process_videos": ("videos",),
        "ProcessorMixin.validate_inputs": ("images", "text", "videos"),
        "ProcessorMixin.from_args_and_dict": ("args", "processor_dict"),
    },
}
PROCESSING_BEFORE_5 = {
    "transformers.processing_utils": {
        "ProcessorMixin._merge_kwargs": ("ModelProcessorKwargs", "tokenizer_init_kwargs"),
        "ProcessorMixin._check_special_mm_tokens": ("text", "text_inputs", "modalities"),
        "ProcessorMixin.from_args_and_dict": ("args", "processor_dict"),
    },
}
# Without these, checkpoints of the stock families would load with a random language model; 4.57 has another way.
CONVERSION = {
    "transformers.conversion_mapping": {
        "get_checkpoint_conversion_mapping": ("model_type",),
        "register_checkpoint_conversion_mapping": ("model_type_or_class_name", "mapping", "overwrite"),
    },
}


def check_release() -> None:
    """Raise an `ImportError` where this release of transformers lacks what the configs and processors need.

    Warns once where the release is newer than all tested ones and has everything.
    """
    is_4 = "AutoModelForVision2Seq" in dir(transformers)  # `hasattr` would import it
    if Version(transformers.__version__) < Version("4.57") or not (HAS_IMAGE_HOOK or is_4):
        raise ImportError(
            f"DivPrune models need transformers 4.57, or 5.10 and later; found {transformers.__version__}. "
            f"{advice()}"
        )
    for name in NAMES:
        if name not in dir(transformers):
            raise missing(f"transformers.{name}")
    for module, functions in (PROCESSING if HAS_IMAGE_HOOK else PROCESSING_BEFORE_5).items():
        for path, parameters in functions.items():
            check_parameters(importlib.import_module(module), path, parameters)
    newest = TESTED_TRANSFORMERS[-1]
    if Version(transformers.__version__).release[:2] > Version(newest).release[:2]:
        logging.get_logger(__name__).warning_once(
            f"This DivPrune code was tested with transformers up to {newest}, and found all it needs in "
            f"{transformers.__version__}. Should answers look wrong, install transformers=={newest} and compare."
        )


def check_parameters(owner: Any, path: str, parameters: tuple[str, ...]) -> None:
    """Raise an `ImportError` unless `owner` has the function at `path` and it names `parameters`."""
    function = owner
    for name in path.split("."):
        function = getattr(function, name, None)
    named = inspect.signature(function).parameters if function is not None else {}
    if function is None or not set(parameters) <= set(named):
        place = getattr(owner, "__qualname__", owner.__name__)
        raise missing(f"{owner.__module__}.{place}.{path}({', '.join(parameters)})" if inspect.isclass(owner)
                      else f"{place}.{path}({', '.join(parameters)})")


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
