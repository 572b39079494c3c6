"""The model card of a variant, rendered from one template."""

import re
from dataclasses import dataclass
from string import Template
from typing import Any

from huggingface_hub import ModelCardData

from divprune_hf.cards.figures import figures
from divprune_hf.cards.variants import Licence, Variant, asset, variant_of
from divprune_hf.checkpoints import files
from divprune_hf.checkpoints.families import FAMILIES
from divprune_hf.remote_code.configuration_divprune import DivPruneConfig
from divprune_hf.remote_code.selectors import SELECTORS
from divprune_hf.remote_code.transformers_surface import TESTED_TRANSFORMERS, major_and_minor


# Sentences about the weights: of a converted variant, and of a model that transformers saved, such as a trained one.
OF_THE_BASE = "The weights are the base's, byte for byte:\nnothing was trained and nothing was calibrated."
SAVED = "The weights were\nsaved by transformers after conversion, and may have been trained further."
ORIGINAL_POSITIONS = (
    'Each kept token stands at the position that it had among all tokens (`positions` is "original"), which helps\n'
    "with questions about place. Engines that make position ids themselves, such as vLLM, refuse this model.\n"
)
DEEPER_LAYER = (
    "The layers in front of it see all visual tokens (`layer` is {layer}). Engines whose cache has the same length in\n"
    "all layers, such as vLLM, refuse this model.\n"
)
NEWER_THAN_ENGINE = (
    "It has not been tried in vLLM: release 0.32 takes transformers up to 5.19, and this family needs {}.{}.\n"
)
RELEASE_OF_ENGINE = (5, 19)
LOCAL_SOURCE = "Converted from the local checkpoint `{base}` with divprune_hf."


@dataclass(frozen=True)
class CardFacts:
    """The facts that a card states.

    Attributes:
        name: the argument of `from_pretrained`: a folder, or ORG/NAME.
        divprune_config: the settings of the pruning.
        base: the Hub id of the base or, if it is not `on_hub`, the name of its folder.
        on_hub: True if the base is a Hub repo.
        commit: the commit of a Hub base, if it is known.
        tag: the tag under which the variant is published.
        licence: the licence of the base, if it is known.
        row: the row of the table with the base's figures.
        family: the stock family's `model_type`.
        saved: True if transformers saved it, so that its weights may differ from the base's.
    """

    name: str
    divprune_config: DivPruneConfig
    base: str
    on_hub: bool = False
    commit: str | None = None
    tag: str | None = None
    licence: Licence | None = None
    row: Variant | None = None
    family: str = "llava"
    saved: bool = False

    @classmethod
    def of_config(cls, name: str, config: dict[str, Any], folder_name: str) -> "CardFacts":
        """Return the facts of a variant.

        Args:
            name: the argument of `from_pretrained`.
            config: the content of its `config.json`.
            folder_name: the name of the base's folder, for a base that is not on the Hub.
        """
        recorded = files.recorded_base(config) or {}
        row = variant_of(recorded.get("repo_id"))
        return cls(
            name=name,
            divprune_config=DivPruneConfig(**config["divprune_config"]),
            base=recorded.get("repo_id") or folder_name,
            on_hub="repo_id" in recorded,
            commit=recorded.get("commit"),
            licence=row.licence if row else None,
            row=row,
            family=files.family_of(config, name).base_model_type,
        )

    @property
    def takes_videos(self) -> bool:
        """True if the family has a budget for videos too."""
        return FAMILIES[self.family].takes_videos

    @property
    def release(self) -> tuple[int, int]:
        """The oldest transformers that the family runs on."""
        return FAMILIES[self.family].names.release


def render_card(facts: CardFacts) -> str:
    """Return the text of a variant's README.md."""
    template, layer = Template(asset("variant_card.md")), facts.divprune_config.layer
    pin = ""
    revision = f', revision="{facts.tag}"' if facts.tag else ""
    if facts.tag:
        check = f"divprune-hf verify {facts.name} --revision {facts.tag}"
        pin = f'\n`revision="{facts.tag}"` keeps to this version; `{check}` compares them with those of divprune_hf.'
    return template.substitute(
        metadata=metadata(facts),
        title=facts.name.split("/")[-1],
        name=facts.name,
        source=source(facts),
        budget=budget(facts),
        weights=SAVED if facts.saved else OF_THE_BASE,
        choice=SELECTORS[facts.divprune_config.selector].sentence,
        place=f"in front of decoder layer {layer}" if layer else "before the language model",
        engine=about_engines(facts, revision),
        video=about_videos(facts.name, revision) if facts.takes_videos else "",
        pinning=pin,
        needed=FAMILIES[facts.family].releases,
        tested=", ".join(version for version in TESTED_TRANSFORMERS if major_and_minor(version) >= facts.release),
        revision=revision,
        figures=figures(facts.row, facts.divprune_config),
        details=details(facts.row),
        licence=licence_text(facts),
    )


def about_engines(facts: CardFacts, revision: str) -> str:
    """Return the section about vLLM; `revision` is the argument of `from_pretrained` that the examples append."""
    if facts.divprune_config.positions != "compact":
        return ORIGINAL_POSITIONS
    if facts.divprune_config.layer:
        return DEEPER_LAYER.format(layer=facts.divprune_config.layer)
    if facts.release > RELEASE_OF_ENGINE:
        return NEWER_THAN_ENGINE.format(*facts.release)
    code_revision = f', code_revision="{facts.tag}"' if facts.tag else ""
    return Template(asset("vllm.md")).substitute(name=facts.name, revision=revision, code_revision=code_revision)


def about_videos(name: str, revision: str) -> str:
    """Return the section about videos; `revision` is the argument of `from_pretrained` that the examples append."""
    return "\n" + Template(asset("video.md")).substitute(name=name, revision=revision)


def metadata(facts: CardFacts) -> str:
    """Return the YAML at the top of the card, which the Hub's pages and filters read."""
    data: dict[str, Any] = {
        **licence_metadata(facts.licence),
        "library_name": "transformers",
        "pipeline_tag": "image-text-to-text",
        **({"base_model": facts.base, "base_model_relation": "finetune"} if facts.on_hub else {}),
        "tags": ["divprune", "visual-token-pruning", "llava", *(facts.row.tags if facts.row else [])],
        **({"datasets": facts.row.datasets} if facts.row and facts.row.datasets else {}),
    }
    return ModelCardData(**data).to_yaml()


def licence_metadata(licence: Licence | None) -> dict[str, str | None]:
    """Return the metadata that names the licence; `other` needs a name and a link too."""
    if licence is None:
        return {}
    if licence.id != "other":
        return {"license": licence.id}
    return {"license": "other", "license_name": licence.name, "license_link": licence.link}


def source(facts: CardFacts) -> str:
    """Return the sentence that says what the variant was converted from."""
    if not facts.on_hub:
        return LOCAL_SOURCE.format(base=facts.base)
    at = f" at commit `{facts.commit}`" if facts.commit else ""
    return f"Converted from [`{facts.base}`](https://huggingface.co/{facts.base}){at} with divprune_hf."


def budget(facts: CardFacts) -> str:
    """Return the number or share of visual tokens that are kept, in words."""
    divprune_config = facts.divprune_config
    if divprune_config.num_tokens is not None:
        text = f"{divprune_config.num_tokens} visual tokens per image"
    else:
        text = f"{divprune_config.retention_ratio:.1%} of each image's visual tokens"
    if not facts.takes_videos:
        return text
    if divprune_config.video_num_tokens is not None:
        return f"{text} and {divprune_config.video_num_tokens} of each video's"
    return f"{text} and {divprune_config.video_retention_ratio:.1%} of each video's"


def details(row: Variant | None) -> str:
    """Return the section that only this base has, or an empty text."""
    if row is None or row.details is None:
        return ""
    return "\n" + asset(row.details).strip() + "\n"


def licence_text(facts: CardFacts) -> str:
    """Return the section about the licence."""
    licence = facts.licence
    if licence is None:
        return "The licence of the base holds for this model too."
    named = f"[{licence.title}]({licence.link})" if licence.link else licence.title
    parts = [f"The base is under the {named}, which holds for this model too.", licence.terms, licence.notice]
    return " ".join(part for part in [*parts, "The Python files are under Apache-2.0."] if part)


def rendered_facts(text: str, config: dict[str, Any]) -> CardFacts | None:
    """Return the facts from which `convert` rendered this card, or None if somebody wrote or edited it."""
    name = re.search(r'from_pretrained\(\s*"([^"]+)"', text)
    base = re.search(LOCAL_SOURCE.format(base="([^`]+)"), text)
    if name is None:
        return None
    facts = CardFacts.of_config(name[1], config, base[1] if base else "")
    return facts if render_card(facts) == text else None
