"""Our classes among the Auto classes of transformers: after `import divprune_hf` no trust flag is needed."""

import transformers
from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoProcessor

from divprune_hf.checkpoints.families import FAMILIES


# transformers 5 has no AutoModelForVision2Seq; what it loaded is loaded by AutoModelForImageTextToText.
AutoModelForVision2Seq = getattr(transformers, "AutoModelForVision2Seq", AutoModelForImageTextToText)

# 4.57 has the first of these two besides, 5 the second.
HEAD_AUTO_CLASSES = ["AutoModelForImageTextToText", "AutoModelForVision2Seq", "AutoModelForMultimodalLM"]


def register_auto_classes():
    """Register every family, and mark its classes so that `save_pretrained` ships their code."""
    for family in FAMILIES.values():
        AutoConfig.register(family.config_class.model_type, family.config_class, exist_ok=True)
        AutoModel.register(family.config_class, family.model_class, exist_ok=True)
        AutoProcessor.register(family.config_class, family.processor_class, exist_ok=True)
        for name in HEAD_AUTO_CLASSES:
            auto_class = getattr(transformers, name, None)
            if auto_class is not None:
                auto_class.register(family.config_class, family.head_class, exist_ok=True)
        family.config_class.register_for_auto_class()
        family.model_class.register_for_auto_class("AutoModel")
        family.head_class.register_for_auto_class("AutoModelForImageTextToText")
        family.processor_class.register_for_auto_class()
