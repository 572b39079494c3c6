"""The files of a variant that are made, not copied: judged configs, card, code."""

from importlib import resources

from divprune_hf.cards.card import CardFacts, render_card
from divprune_hf.checkpoints import files
from divprune_hf.checkpoints.json_files import to_json
from divprune_hf.checkpoints.judged_files import judge
from divprune_hf.checkpoints.model_shapes import check_weights_fit, needed_shapes
from divprune_hf.checkpoints.variant_configs import (
    variant_config,
    variant_preprocessor_configs,
    variant_processor_config,
)
from divprune_hf.common.printable import printable
from divprune_hf.remote_code.configuration_divprune import DivPruneConfig


def variant_texts(base, folder, commit, divprune_config, name):
    """The files of a variant that are not the base's, by name: configs, card, code. And what was left out of them.

    Args:
        base (`str` or `Path`): how the base was named.
        folder (`Path`): where its small files are.
        commit (`str` or `None`): its commit, if it is a Hub repo.
        divprune_config (`dict`, `DivPruneConfig` or `None`): the budget asked for.
        name (`str`): what `from_pretrained` takes for the variant.

    Returns:
        The texts by file name, and a list of keys that no class declares, as FILE: PATH.TO.KEY.
    """
    contents, dropped = variant_contents(base, folder, commit, divprune_config)
    facts = CardFacts.of_config(name, contents["config.json"], folder.name)
    licence = facts.licence
    notice = f"{licence.notice}\n{licence.link}\n" if licence and licence.notice else None
    brings_notice = any(path.name.upper().startswith("NOTICE") for path in folder.iterdir())
    texts = {
        **{file: to_json(content) for file, content in contents.items()},
        "README.md": render_card(facts),
        **({"NOTICE": notice} if notice and not brings_notice else {}),
        **shipped_code(),
    }
    return texts, dropped


def variant_contents(base, folder, commit, divprune_config):
    """The JSON files of a variant that differ from the base's, by name, and what was left out; see `variant_texts`."""
    family, judged = judged_base(base, folder)
    of_base = judged.contents
    config, processor_config = of_base["config.json"], of_base.get("processor_config.json", {})
    divprune_config = DivPruneConfig.merged(config.get("divprune_config"), divprune_config, family.takes_videos)
    edited = variant_config(config, family, divprune_config)
    if commit is not None:
        edited["divprune_base"] = {"repo_id": str(base), "commit": commit}
    contents = {
        **{name: content for name, content in of_base.items() if judged.changed(name)},
        **data_configs(of_base, family),
        "config.json": edited,
        "processor_config.json": variant_processor_config(processor_config, config, family, divprune_config),
    }
    if (folder / "model.safetensors").exists():
        contents.pop(files.INDEX, None)  # transformers would not read it
    return contents, judged.dropped


def judged_base(base, folder):
    """The family of a base, and its JSON files without what no class declares. Nothing of it is loaded before."""
    config = files.read_json(folder / "config.json")
    family = files.family_of(config, base)
    return family, judge(folder, family, files.is_variant(config))


def data_configs(contents, family):
    """The preprocessor configs that have to be written, by name."""
    names = ("preprocessor_config.json", "video_preprocessor_config.json")
    parts = [contents.get(name) for name in names]
    return variant_preprocessor_configs(*parts, contents.get("processor_config.json", {}), family)


def check_built(folder, shapes, config):
    """Refuse a config that no model can be built from, or whose model needs other weights than there are."""
    check_weights_fit(needed_shapes(config, files.family_of(config, folder), folder), shapes, folder)


def shipped_code() -> dict[str, str]:
    """The text of every file of `remote_code`, by name: the code of every variant."""
    room = resources.files("divprune_hf.remote_code")
    names = [entry.name for entry in room.iterdir() if entry.name.endswith(".py") and entry.name != "__init__.py"]
    return {name: (room / name).read_text(encoding="utf-8") for name in sorted(names)}


def tell_left_out(say, dropped):
    """Say once which keys of the base's files are not in the variant's."""
    if dropped:
        say(printable(f"Left out, as no class of the family declares it: {'; '.join(dropped)}"))
