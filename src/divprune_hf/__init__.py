"""LLaVA models that answer from a tenth of their visual tokens, kept for their diversity (DivPrune, CVPR 2025).

Importing this package registers its classes with the Auto classes of transformers. What it exports is imported when it
is first used, so that the import itself takes no time.
"""

import importlib
from typing import Any

from divprune_hf.registration import register_auto_classes
from divprune_hf.version import __version__ as __version__


# The module of each exported name; `__init__.pyi` has the same for type checkers.
EXPORTED_FROM = {
    "DivPruneConfig": "remote_code.configuration_divprune",
    "DivPruneLlavaConfig": "remote_code.configuration_divprune",
    "DivPruneLlavaForConditionalGeneration": "remote_code.modeling_divprune_llava",
    "DivPruneLlavaModel": "remote_code.modeling_divprune_llava",
    "DivPruneLlavaNextConfig": "remote_code.configuration_divprune",
    "DivPruneLlavaNextForConditionalGeneration": "remote_code.modeling_divprune_llava_next",
    "DivPruneLlavaNextModel": "remote_code.modeling_divprune_llava_next",
    "DivPruneLlavaNextProcessor": "remote_code.processing_divprune",
    "DivPruneLlavaNextVideoConfig": "remote_code.configuration_divprune",
    "DivPruneLlavaNextVideoForConditionalGeneration": "remote_code.modeling_divprune_llava_next_video",
    "DivPruneLlavaNextVideoModel": "remote_code.modeling_divprune_llava_next_video",
    "DivPruneLlavaNextVideoProcessor": "remote_code.processing_divprune_video",
    "DivPruneLlavaProcessor": "remote_code.processing_divprune",
    "convert_checkpoint": "publishing.convert",
    "keep_count": "remote_code.budget",
    "publish_variant": "publishing.publish",
    "push_variant": "publishing.push",
    "select_diverse_tokens": "remote_code.max_min_fast",
    "set_budget": "inference.budget",
    "verify_variant": "publishing.verify",
}

# The same for families that need a newer transformers than the package does; `from divprune_hf import *` leaves them
# out.
OF_LATE_FAMILIES = {
    "DivPruneLlavaOnevisionConfig": "remote_code.configuration_divprune_llava_onevision",
    "DivPruneLlavaOnevisionForConditionalGeneration": "remote_code.modeling_divprune_llava_onevision",
    "DivPruneLlavaOnevisionModel": "remote_code.modeling_divprune_llava_onevision",
    "DivPruneLlavaOnevisionProcessor": "remote_code.processing_divprune_llava_onevision",
}

__all__ = ["AutoModelForVision2Seq", *EXPORTED_FROM]


def __getattr__(name: str) -> Any:
    """Import an exported name when it is first used."""
    if name == "AutoModelForVision2Seq":
        # transformers 5 has no such class; what it loaded is loaded by AutoModelForImageTextToText.
        transformers = importlib.import_module("transformers")
        return getattr(transformers, name, transformers.AutoModelForImageTextToText)
    module = EXPORTED_FROM.get(name) or OF_LATE_FAMILIES.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{module}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *OF_LATE_FAMILIES})


register_auto_classes()
