"""The model card of a variant, rendered from one template."""

import re
from dataclasses import dataclass
from string import Template

from huggingface_hub import ModelCardData

from divprune_hf.cards.figures import figures
from divprune_hf.cards.variants import Licence, Variant, asset, variant_of
from divprune_hf.checkpoints import files
from divprune_hf.remote_code.configuration_divprune import DivPruneConfig
from divprune_hf.remote_code.selectors import SELECTORS
from divprune_hf.remote_code.transformers_surface import TESTED_TRANSFORMERS


# What a card says of the weights of a converted variant, and of a model that was saved, such as a trained one.
OF_THE_BASE = "The weights are the base's, byte for byte:\nnothing was trained and nothing was calibrated."
SAVED = "The weights were\nsaved by transformers after conversion, and may have been trained further."
LOCAL_SOURCE = "Converted from the local checkpoint `{base}` with divprune_hf."

VIDEO = Template("""
About a video (`pip install torchvision av`), whose budget is `video_num_tokens` or `video_retention_ratio`:

```python
from transformers import AutoModelForImageTextToText, AutoProcessor
from transformers.video_utils import load_video

processor = AutoProcessor.from_pretrained("$name", trust_remote_code=True$revision)
model = AutoModelForImageTextToText.from_pretrained(
    "$name", trust_remote_code=True$revision, dtype="auto", device_map="auto"
)
frames, _ = load_video("clip.mp4", num_frames=8, backend="pyav")
prompt = "USER: <video>\\nWhat happens? ASSISTANT:"
inputs = processor(videos=[frames], text=prompt, return_tensors="pt").to(model.device, model.dtype)
output = model.generate(**inputs, max_new_tokens=30)
print(processor.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
```
""")


@dataclass(frozen=True)
class CardFacts:
    """The facts that a card tells.

    Attributes:
        name: what `from_pretrained` takes: a folder, or ORG/NAME.
        base: the Hub id of the base or, if it is not `on_hub`, the name of its folder.
        commit: the commit of a Hub base, where it is known.
        tag: the tag under which the variant is published.
        takes_videos: whether its family has a budget for videos too.
        row: the row of the table with the base's figures.
        saved: whether transformers saved it, so that its weights need not be the base's.
    """

    name: str
    divprune_config: DivPruneConfig
    base: str
    on_hub: bool = False
    commit: str | None = None
    tag: str | None = None
    licence: Licence | None = None
    row: Variant | None = None
    takes_videos: bool = False
    saved: bool = False

    @classmethod
    def of_config(cls, name: str, config: dict, folder_name: str) -> "CardFacts":
        """Return what is known of a variant with this `config.json`; `folder_name` is that of a local base."""
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
            takes_videos="video" in config["model_type"],
        )


def render_card(facts: CardFacts) -> str:
    """The text of a variant's README.md."""
    template = Template(asset("variant_card.md"))
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
        video=VIDEO.substitute(name=facts.name, revision=revision) if facts.takes_videos else "",
        pinning=pin,
        tested=", ".join(TESTED_TRANSFORMERS),
        revision=revision,
        code_revision=f', code_revision="{facts.tag}"' if facts.tag else "",
        figures=figures(facts.row, facts.divprune_config),
        details=details(facts.row),
        licence=licence_text(facts),
    )


def metadata(facts):
    """The YAML at the top of the card, with what the Hub's pages and filters read."""
    data = {
        **licence_metadata(facts.licence),
        "library_name": "transformers",
        "pipeline_tag": "image-text-to-text",
        **({"base_model": facts.base, "base_model_relation": "finetune"} if facts.on_hub else {}),
        "tags": ["divprune", "visual-token-pruning", "llava", *(facts.row.tags if facts.row else [])],
        **({"datasets": facts.row.datasets} if facts.row and facts.row.datasets else {}),
    }
    return ModelCardData(**data).to_yaml()


def licence_metadata(licence):
    """The part of the metadata that names the licence; `other` needs a name and a link besides."""
    if licence is None:
        return {}
    if licence.id != "other":
        return {"license": licence.id}
    return {"license": "other", "license_name": licence.name, "license_link": licence.link}


def source(facts):
    if not facts.on_hub:
        return LOCAL_SOURCE.format(base=facts.base)
    at = f" at commit `{facts.commit}`" if facts.commit else ""
    return f"Converted from [`{facts.base}`](https://huggingface.co/{facts.base}){at} with divprune_hf."


def budget(facts):
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


def details(row):
    if row is None or row.details is None:
        return ""
    return "\n" + asset(row.details).strip() + "\n"


def licence_text(facts):
    licence = facts.licence
    if licence is None:
        return "The licence of the base holds for this model too."
    named = f"[{licence.title}]({licence.link})" if licence.link else licence.title
    parts = [f"The base is under the {named}, which holds for this model too.", licence.terms, licence.notice]
    return " ".join(part for part in [*parts, "The Python files are under Apache-2.0."] if part)


def rendered_facts(text: str, config: dict) -> CardFacts | None:
    """The facts from which `convert` rendered this card, or None if it was written or edited by someone."""
    name = re.search(r'from_pretrained\(\s*"([^"]+)"', text)
    base = re.search(LOCAL_SOURCE.format(base="([^`]+)"), text)
    if name is None:
        return None
    facts = CardFacts.of_config(name[1], config, base[1] if base else "")
    return facts if render_card(facts) == text else None
