# SPDX-License-Identifier: Apache-2.0
"""The names of each family's classes and files: what `auto_map` of a model repo says."""

from dataclasses import dataclass


@dataclass(frozen=True)
class FamilyNames:
    """Names of a family's classes, which begin with `prefix`, and of the files that they are in.

    Attributes:
        prefix, modeling, processing, configuration: these names.
        release: the oldest transformers that the family runs on, (major, minor).
    """

    prefix: str
    modeling: str
    processing: str
    configuration: str = "configuration_divprune"
    release: tuple[int, int] = (4, 57)


# By the model_type of the stock family.
FAMILY_NAMES = {
    "llava": FamilyNames("DivPruneLlava", "modeling_divprune_llava", "processing_divprune"),
    "llava_next": FamilyNames("DivPruneLlavaNext", "modeling_divprune_llava_next", "processing_divprune"),
    "llava_next_video": FamilyNames(
        "DivPruneLlavaNextVideo", "modeling_divprune_llava_next_video", "processing_divprune_video"
    ),
    "llava_onevision": FamilyNames(
        "DivPruneLlavaOnevision",
        "modeling_divprune_llava_onevision",
        "processing_divprune_llava_onevision",
        "configuration_divprune_llava_onevision",
        release=(5, 20),
    ),
}


def auto_map(family: str) -> dict[str, str]:
    """Return where transformers finds the classes of a family inside a model repo, by Auto class."""
    names = FAMILY_NAMES[family]
    head = f"{names.modeling}.{names.prefix}ForConditionalGeneration"
    return {
        "AutoConfig": f"{names.configuration}.{names.prefix}Config",
        "AutoModel": f"{names.modeling}.{names.prefix}Model",
        "AutoModelForImageTextToText": head,
        # transformers 4.57 looks for the first of these two, transformers 5 for the second.
        "AutoModelForVision2Seq": head,
        "AutoModelForMultimodalLM": head,
    }
