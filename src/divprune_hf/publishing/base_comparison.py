"""Comparison of a variant with the Hub base that it records: its files have to be what `convert` makes of the base."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub.hf_api import RepoFile

from divprune_hf.checkpoints import files
from divprune_hf.checkpoints.hub_errors import redact
from divprune_hf.checkpoints.hub_files import download
from divprune_hf.checkpoints.judged_files import JUDGED_FILES
from divprune_hf.publishing.hub_base import LARGEST_SMALL_FILES
from divprune_hf.publishing.variant_files import variant_contents


# Tells whether the file of the variant with this name has the content of a file of the base.
IsSame = Callable[[str, RepoFile], bool]
TEMPLATE_PATTERNS = ["chat_template.jinja", "additional_chat_templates/*.jinja"]
SMALL_PATTERNS = [*JUDGED_FILES, *TEMPLATE_PATTERNS]


@dataclass
class Comparison:
    """Result of a comparison: differences, which refuse the variant, and notes, which inform the user."""

    differences: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def compare_with_base(
    folder: Path, names: list[str], recorded: dict[str, str], there: dict[str, RepoFile], is_same: IsSame
) -> Comparison:
    """Compare a variant with its base at the recorded commit.

    Chat templates have to be the base's. If the weights are the base's too, every other file has to be what `convert`
    writes from it. If they are not, as after training, other differences are notes.

    Args:
        folder: the folder of the variant's small files.
        names: the names of all its files, the weights included.
        recorded: the base's `repo_id` and `commit`.
        there: the base's files at this commit.
        is_same: compares a file of the variant with one of the base.
    """
    base, commit = recorded["repo_id"], recorded["commit"]
    try:
        small = {name: file for name, file in there.items() if files.matches(name, SMALL_PATTERNS)}
        base_folder = download(base, commit, small, LARGEST_SMALL_FILES)
    except Exception as error:  # gated, gone, or no network; the libraries share no class of error
        return Comparison(notes=[unreachable(base, error)])
    config = files.read_json(folder / "config.json")
    expected, _ = variant_contents(base, base_folder, commit, config.get("divprune_config"))
    comparison = Comparison()
    foreign = sorted(set(templates(folder)) - set(templates(base_folder)))
    if foreign:
        comparison.differences.append(
            f"{', '.join(foreign_files(folder, foreign))} has a chat template that {base} lacks"
        )
    changed = changed_files(folder, names, there, expected, is_same)
    own = {name for name in names if name.endswith(".safetensors")}
    if own == {name for name in there if files.matches(name, ["*.safetensors"])} & own and all(
        is_same(name, there[name]) for name in own
    ):
        comparison.differences += [f"{name} is not what convert writes from {base}" for name in changed]
    else:
        comparison.notes.append(f"its weights are not those of {base} at commit {commit}")
        comparison.notes += [f"{name} is not what convert writes from {base}" for name in changed]
    return comparison


def unreachable(base: str, error: Exception) -> str:
    """Return a note that the files were not compared with those of the base, and why."""
    return redact(f"its base {base} could not be looked at ({' '.join(str(error).split())}), so it was not compared")


def changed_files(
    folder: Path, names: list[str], there: dict[str, RepoFile], expected: dict[str, Any], is_same: IsSame
) -> list[str]:
    """Return the configs, tokenizer files and templates that `convert` writes otherwise, or not at all."""
    data = {name for name in {*names, *there} if files.is_copied(name) and not files.is_legal(name)}
    changed = []
    for name in sorted(data | set(expected)):
        if name in expected:
            same = name in names and files.read_json(folder / name) == expected[name]
        else:
            same = name in names and name in there and is_same(name, there[name])
        if not same:
            changed.append(name)
    return changed


def templates(folder: Path) -> dict[str, str]:
    """Return every chat template of a folder, each with the file that holds it."""
    found: dict[str, str] = {}
    for name in ("tokenizer_config.json", "processor_config.json", "chat_template.json"):
        if (folder / name).is_file():
            for text in texts_of(files.read_json(folder / name).get("chat_template")):
                found[text] = name
    for path in [folder / "chat_template.jinja", *folder.glob("additional_chat_templates/*.jinja")]:
        if path.is_file():
            found[path.read_text(encoding="utf-8", errors="replace")] = path.relative_to(folder).as_posix()
    return found


def foreign_files(folder: Path, foreign: list[str]) -> list[str]:
    """Return the files that hold these chat templates."""
    found = templates(folder)
    return sorted({found[text] for text in foreign})


def texts_of(template: Any) -> list[str]:
    """Return the templates in a `chat_template`: a text, a dict by name, or a list of objects with a name each."""
    if isinstance(template, str):
        return [template]
    if isinstance(template, dict):
        return [str(text) for text in template.values()]
    if isinstance(template, list):
        return [str(entry.get("template")) if isinstance(entry, dict) else str(entry) for entry in template]
    return []
