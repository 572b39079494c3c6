"""Comparison of a published variant with what this package makes of its base. Nothing of the variant is run."""

from dataclasses import dataclass, field
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.hf_api import RepoFile

from divprune_hf.checkpoints import files
from divprune_hf.checkpoints.hub_errors import explained
from divprune_hf.checkpoints.hub_files import download, is_same, repo_files, repo_info
from divprune_hf.checkpoints.judged_files import JUDGED_FILES
from divprune_hf.common.printable import printable
from divprune_hf.publishing.base_comparison import IsSame, compare_with_base, unreachable
from divprune_hf.publishing.checks import code_differences, judged_differences


# Folders that git and the Hub's client keep beside a repo's files.
NOT_OF_THE_REPO = (".git/", ".cache/")
LARGEST_CODE = 2**26  # bytes of code and configs


@dataclass(frozen=True)
class Verified:
    """Result of a comparison: the variant, its commit (empty for a folder), its Python files, and notes."""

    source: str
    commit: str
    code: list[str]
    notes: list[str] = field(default_factory=list)


def verify_variant(source: str | Path, revision: str | None = None) -> Verified:
    """Check that a variant is what this package ships, and that no file of it makes transformers load anything else.

    Python files are compared by hash. JSON files may hold the keys that `convert` keeps. Any other file has to be one
    that variants have. If the variant records a Hub base that can be reached, its files are compared with those that
    `convert` makes of the base at the recorded commit.

    Args:
        source (`str` or `Path`): ORG/NAME on the Hub, or a folder.
        revision (`str`, *optional*): branch, tag or commit of a Hub repo.

    Returns:
        What was compared, with notes on what could not be.

    Raises:
        ValueError: names every difference.
    """
    api, there = HfApi(), {}
    if Path(source).is_dir():
        if revision is not None:
            raise ValueError(f"Got revision={revision!r} for the folder {source}: only Hub repos have revisions.")
        folder, commit = Path(source), ""
        paths = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if not path.is_dir()}
        names = [name for name, path in paths.items() if not name.startswith(NOT_OF_THE_REPO)]
        for name in names:
            files.regular_file(paths[name])
    else:
        with explained(str(source)):
            commit = str(repo_info(api, str(source), revision).sha)
            there = repo_files(api, str(source), commit)
            names = list(there)
            wanted = [name for name in names if name.endswith((".py", ".jinja")) or name in JUDGED_FILES]
            if "config.json" not in wanted:
                raise ValueError(f"{source} has no config.json: expected a variant (divprune-hf convert).")
            folder = download(str(source), commit, {name: there[name] for name in wanted}, LARGEST_CODE)
    code = {name: (folder / name).read_bytes() for name in sorted(names) if name.endswith(".py")}
    # Configs come first: their differences explain the unexpected files.
    differences = code_differences(code) + judged_differences(folder, source)
    differences += unexpected_files(folder, names)
    notes: list[str] = []
    recorded = files.recorded_base(files.read_json(folder / "config.json"))
    if recorded and not differences:
        is_same_file = same_on_hub(there) if there else same_in_folder(folder)
        try:
            of_base = repo_files(api, recorded["repo_id"], recorded["commit"])
        except Exception as error:  # gone, or no network; the libraries share no class of error
            notes.append(unreachable(recorded["repo_id"], error))
        else:
            comparison = compare_with_base(folder, names, recorded, of_base, is_same_file)
            differences, notes = comparison.differences, comparison.notes
    if differences:
        raise ValueError(printable(f"{source} is not what this package ships: {'; '.join(differences)}."))
    return Verified(str(source), commit, sorted(code), notes)


def same_on_hub(there: dict[str, RepoFile]) -> IsSame:
    """Return a comparison by the hashes that the Hub lists, without a download."""

    def compare(name: str, other: RepoFile) -> bool:
        file = there[name]
        if file.lfs and other.lfs:
            return file.lfs.sha256 == other.lfs.sha256
        return not file.lfs and not other.lfs and file.blob_id == other.blob_id

    return compare


def same_in_folder(folder: Path) -> IsSame:
    """Return a comparison by the hash of the file in a folder."""
    return lambda name, other: is_same(folder / name, (folder / name).stat().st_size, other)


def unexpected_files(folder: Path, names: list[str]) -> list[str]:
    """Return a phrase for every file that a variant must not have, and for every missing file of weights."""
    weights = {"model.safetensors"} & set(names)
    if not weights and files.INDEX in names:
        weights = {
            files.INDEX,
            *files.shards_of_index(files.read_json(folder / files.INDEX)["weight_map"], files.INDEX),
        }
    found = [f"{name} is missing, which the index names" for name in sorted(weights - set(names))]
    if not weights:
        found.append("there are no safetensors weights")
    for name in sorted(names):
        if files.matches(name, files.PICKLED_PATTERNS):
            found.append(f"{name} can run code when it is loaded")
        elif files.matches(name, files.ADAPTER_PATTERNS):
            found.append(f"{name} can make transformers load another model")
        elif not (name in weights or name.endswith(".py") or is_expected(name)):
            found.append(f"{name} is an unexpected file")
    return found


def is_expected(name: str) -> bool:
    """Tell whether a variant may have a file of this name that is neither code nor weights."""
    return name in files.EDITED_FILES or files.is_copied(name) or files.matches(name, files.SHOWN_PATTERNS)
