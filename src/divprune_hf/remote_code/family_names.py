# SPDX-License-Identifier: Apache-2.0
"""The names of each family's classes and files: what `auto_map` of a model repo says."""

from dataclasses import dataclass


@dataclass(frozen=True)
class FamilyNames:
    """Names of a family's classes, which begin with `prefix`, and of the files that they are in."""

    prefix: str
    modeling: str
    processing: str


# By the model_type of the stock family.
FAMILY_NAMES = {
    "llava": FamilyNames("DivPruneLlava", "modeling_divprune_llava", "processing_divprune"),
    "llava_next": FamilyNames("DivPruneLlavaNext", "modeling_divprune_llava_next", "processing_divprune"),
    "llava_next_video": FamilyNames(
        "DivPruneLlavaNextVideo", "modeling_divprune_llava_next_video", "processing_divprune_video"
    ),
}


def auto_map(family: str) -> dict[str, str]:
    """Return where transformers finds the classes of a family inside a model repo, by Auto class."""
    names = FAMILY_NAMES[family]
    head = f"{names.modeling}.{names.prefix}ForConditionalGeneration"
    return {
        "AutoConfig": f"configuration_divprune.{names.prefix}Config",
        "AutoModel": f"{names.modeling}.{names.prefix}Model",
        "AutoModelForImageTextToText": head,
        # transformers 4.57 looks for the first of these two, transformers 5 for the second.
        "AutoModelForVision2Seq": head,
        "AutoModelForMultimodalLM": head,
    }
