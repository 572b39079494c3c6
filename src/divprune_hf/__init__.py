"""LLaVA models that answer from a tenth of their visual tokens, kept for their diversity (DivPrune, CVPR 2025).

Importing this package registers its classes with the Auto classes of transformers.
"""

from divprune_hf.inference.budget import set_budget
from divprune_hf.publishing.convert import convert_checkpoint
from divprune_hf.publishing.publish import publish_variant
from divprune_hf.publishing.push import push_variant
from divprune_hf.publishing.verify import verify_variant
from divprune_hf.registration import AutoModelForVision2Seq, register_auto_classes
from divprune_hf.remote_code.budget import keep_count
from divprune_hf.remote_code.configuration_divprune import (
    DivPruneConfig,
    DivPruneLlavaConfig,
    DivPruneLlavaNextConfig,
    DivPruneLlavaNextVideoConfig,
)
from divprune_hf.remote_code.max_min_fast import select_diverse_tokens
from divprune_hf.remote_code.modeling_divprune_llava import DivPruneLlavaForConditionalGeneration, DivPruneLlavaModel
from divprune_hf.remote_code.modeling_divprune_llava_next import (
    DivPruneLlavaNextForConditionalGeneration,
    DivPruneLlavaNextModel,
)
from divprune_hf.remote_code.modeling_divprune_llava_next_video import (
    DivPruneLlavaNextVideoForConditionalGeneration,
    DivPruneLlavaNextVideoModel,
)
from divprune_hf.remote_code.processing_divprune import DivPruneLlavaNextProcessor, DivPruneLlavaProcessor
from divprune_hf.remote_code.processing_divprune_video import DivPruneLlavaNextVideoProcessor
from divprune_hf.version import __version__ as __version__


__all__ = [
    "AutoModelForVision2Seq",
    "DivPruneConfig",
    "DivPruneLlavaConfig",
    "DivPruneLlavaForConditionalGeneration",
    "DivPruneLlavaModel",
    "DivPruneLlavaNextConfig",
    "DivPruneLlavaNextForConditionalGeneration",
    "DivPruneLlavaNextModel",
    "DivPruneLlavaNextProcessor",
    "DivPruneLlavaNextVideoConfig",
    "DivPruneLlavaNextVideoForConditionalGeneration",
    "DivPruneLlavaNextVideoModel",
    "DivPruneLlavaNextVideoProcessor",
    "DivPruneLlavaProcessor",
    "convert_checkpoint",
    "keep_count",
    "publish_variant",
    "push_variant",
    "select_diverse_tokens",
    "set_budget",
    "verify_variant",
]

register_auto_classes()
