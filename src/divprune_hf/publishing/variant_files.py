"""The files of a variant that are written and not copied: judged configs, card, code."""

from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

from divprune_hf.cards.card import CardFacts, render_card
from divprune_hf.checkpoints import files
from divprune_hf.checkpoints.families import Family
from divprune_hf.checkpoints.json_files import to_json
from divprune_hf.checkpoints.judged_files import Judged, judge
from divprune_hf.checkpoints.model_shapes import check_weights_fit, needed_shapes
from divprune_hf.checkpoints.variant_configs import (
    variant_config,
    variant_preprocessor_configs,
    variant_processor_config,
)
from divprune_hf.common.printable import printable
from divprune_hf.remote_code.configuration_divprune import DivPruneConfig


Settings = dict[str, Any] | DivPruneConfig | None


def variant_texts(
    base: str | Path, folder: Path, commit: str | None, divprune_config: Settings, name: str
) -> tuple[dict[str, str], list[str]]:
    """Return the configs, the card and the code of a variant, and the keys left out of its configs.

    Args:
        base: the folder or Hub id by which the user named the base.
        folder: where its small files are.
        commit: its commit, if it is a Hub repo.
        divprune_config: the settings asked for.
        name: what `from_pretrained` takes for the variant.

    Returns:
        The texts by file name, and the keys that no class declares, as FILE: PATH.TO.KEY.

    Raises:
        ValueError: the base cannot be converted, or the settings are impossible for it.
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


def variant_contents(
    base: str | Path, folder: Path, commit: str | None, divprune_config: Settings
) -> tuple[dict[str, Any], list[str]]:
    """Return the JSON files of a variant that differ from the base's, and the keys left out; see `variant_texts`."""
    family, judged = judged_base(base, folder)
    of_base = judged.contents
    config, processor_config = of_base["config.json"], of_base.get("processor_config.json", {})
    stored = config.get("divprune_config")
    settings = DivPruneConfig.merged(stored, divprune_config, takes_videos=family.takes_videos)
    edited = variant_config(config, family, settings)
    if commit is not None:
        edited["divprune_base"] = {"repo_id": str(base), "commit": commit}
    contents = {
        **{name: content for name, content in of_base.items() if judged.changed(name)},
        **data_configs(of_base, family),
        "config.json": edited,
        "processor_config.json": variant_processor_config(processor_config, config, family, settings),
    }
    if (folder / "model.safetensors").exists():
        contents.pop(files.INDEX, None)  # transformers ignores the index beside a single file
    return contents, judged.dropped


def judged_base(base: str | Path, folder: Path) -> tuple[Family, Judged]:
    """Return the family of a base and its judged JSON files. Nothing of the base is loaded before this check."""
    config = files.read_json(folder / "config.json")
    family = files.family_of(config, base)
    return family, judge(folder, family, files.is_variant(config))


def data_configs(contents: dict[str, Any], family: Family) -> dict[str, Any]:
    """Return the preprocessor configs that differ from the base's, by name."""
    names = ("preprocessor_config.json", "video_preprocessor_config.json")
    images, videos = (contents.get(name) for name in names)
    return variant_preprocessor_configs(images, videos, contents.get("processor_config.json", {}), family)


def check_built(folder: Path, shapes: list[tuple[int, ...]], config: dict[str, Any]) -> None:
    """Refuse a config from which no model can be built, or whose model needs weights that the shapes lack."""
    check_weights_fit(needed_shapes(config, files.family_of(config, folder), folder), shapes, folder)


def shipped_code() -> dict[str, str]:
    """Return the text of every file of `remote_code` by name: the code that each variant holds."""
    room = resources.files("divprune_hf.remote_code")
    names = [entry.name for entry in room.iterdir() if entry.name.endswith(".py") and entry.name != "__init__.py"]
    return {name: (room / name).read_text(encoding="utf-8") for name in sorted(names)}


def tell_left_out(say: Callable[[str], object], dropped: list[str]) -> None:
    """Call `say` once with the keys of the base's files that the variant's lack, if there are any."""
    if dropped:
        say(printable(f"Left out, as no class of the family declares it: {'; '.join(dropped)}"))
