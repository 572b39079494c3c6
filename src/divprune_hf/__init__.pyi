"""Types of what the package exports; `__init__.py` imports it when it is first used."""

from transformers import AutoModelForImageTextToText

from divprune_hf.inference.budget import set_budget as set_budget
from divprune_hf.publishing.convert import convert_checkpoint as convert_checkpoint
from divprune_hf.publishing.publish import publish_variant as publish_variant
from divprune_hf.publishing.push import push_variant as push_variant
from divprune_hf.publishing.verify import verify_variant as verify_variant
from divprune_hf.remote_code.budget import keep_count as keep_count
from divprune_hf.remote_code.configuration_divprune import DivPruneConfig as DivPruneConfig
from divprune_hf.remote_code.configuration_divprune import DivPruneLlavaConfig as DivPruneLlavaConfig
from divprune_hf.remote_code.configuration_divprune import DivPruneLlavaNextConfig as DivPruneLlavaNextConfig
from divprune_hf.remote_code.configuration_divprune import (
    DivPruneLlavaNextVideoConfig as DivPruneLlavaNextVideoConfig,
)
from divprune_hf.remote_code.configuration_divprune_llava_onevision import (
    DivPruneLlavaOnevisionConfig as DivPruneLlavaOnevisionConfig,
)
from divprune_hf.remote_code.max_min_fast import select_diverse_tokens as select_diverse_tokens
from divprune_hf.remote_code.modeling_divprune_llava import (
    DivPruneLlavaForConditionalGeneration as DivPruneLlavaForConditionalGeneration,
)
from divprune_hf.remote_code.modeling_divprune_llava import DivPruneLlavaModel as DivPruneLlavaModel
from divprune_hf.remote_code.modeling_divprune_llava_next import (
    DivPruneLlavaNextForConditionalGeneration as DivPruneLlavaNextForConditionalGeneration,
)
from divprune_hf.remote_code.modeling_divprune_llava_next import DivPruneLlavaNextModel as DivPruneLlavaNextModel
from divprune_hf.remote_code.modeling_divprune_llava_next_video import (
    DivPruneLlavaNextVideoForConditionalGeneration as DivPruneLlavaNextVideoForConditionalGeneration,
)
from divprune_hf.remote_code.modeling_divprune_llava_next_video import (
    DivPruneLlavaNextVideoModel as DivPruneLlavaNextVideoModel,
)
from divprune_hf.remote_code.modeling_divprune_llava_onevision import (
    DivPruneLlavaOnevisionForConditionalGeneration as DivPruneLlavaOnevisionForConditionalGeneration,
)
from divprune_hf.remote_code.modeling_divprune_llava_onevision import (
    DivPruneLlavaOnevisionModel as DivPruneLlavaOnevisionModel,
)
from divprune_hf.remote_code.processing_divprune import DivPruneLlavaNextProcessor as DivPruneLlavaNextProcessor
from divprune_hf.remote_code.processing_divprune import DivPruneLlavaProcessor as DivPruneLlavaProcessor
from divprune_hf.remote_code.processing_divprune_llava_onevision import (
    DivPruneLlavaOnevisionProcessor as DivPruneLlavaOnevisionProcessor,
)
from divprune_hf.remote_code.processing_divprune_video import (
    DivPruneLlavaNextVideoProcessor as DivPruneLlavaNextVideoProcessor,
)
from divprune_hf.version import __version__ as __version__

AutoModelForVision2Seq = AutoModelForImageTextToText
