"""The model card of a variant, rendered from one template."""

from pathlib import Path
from string import Template

from huggingface_hub.utils import validate_repo_id

from divprune_hf.package_data import model_cards


# Which visual tokens a variant keeps, by its selector.
CHOICES = {
    "max_min": "the most diverse\nones (DivPrune, CVPR 2025: greedy max-min cosine distance)",
    "random": "drawn at\nrandom (a baseline to compare DivPrune with)",
    "uniform": "evenly\nspaced ones (a baseline to compare DivPrune with)",
}


def variant_card(base, commit, name, divprune_config):
    """The text of a variant's README.md.

    Args:
        base (`str` or `Path`): the folder or Hub id it was converted from.
        commit (`str` or `None`): the commit of a Hub base.
        name (`str`): the variant's name.
        divprune_config (`DivPruneConfig`): its budget.
    """
    if divprune_config.num_tokens is not None:
        budget = f"{divprune_config.num_tokens} visual tokens per image"
    else:
        budget = f"{divprune_config.retention_ratio:.1%} of each image's visual tokens"
    choice = CHOICES[divprune_config.selector]
    if is_hub_id(base):
        base_line, source = f"base_model: {base}\nbase_model_relation: finetune\n", f"`{base}`"
    else:
        base_line, source = "", f"the local checkpoint `{Path(base).resolve().name}`"
    template = Template((model_cards() / "variant_card.md").read_text(encoding="utf-8"))
    return template.substitute(
        name=name,
        base_line=base_line,
        source=source + (f" at commit `{commit}`" if commit else ""),
        budget=budget,
        choice=choice,
    )


def is_hub_id(base):
    if Path(base).exists():
        return False
    try:
        validate_repo_id(str(base))
    except ValueError:
        return False
    return True
