"""Compare the code of a published variant with this package's, without running any of it."""

from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi

from divprune_hf.printable import printable
from divprune_hf.publishing import checkpoint_files as files
from divprune_hf.publishing.checks import code_differences, config_differences
from divprune_hf.publishing.hub_errors import explained
from divprune_hf.publishing.hub_files import download, repo_files, repo_info


LARGEST_CODE = 2**26  # bytes of code and configs


@dataclass(frozen=True)
class Verified:
    """What was compared: a repo at a commit (empty for a folder), and the Python files that are equal."""

    source: str
    commit: str
    code: list[str]


def verify_variant(source: str | Path, revision: str | None = None) -> Verified:
    """Check that every Python file of a variant equals this package's, by hash, and that its configs name no other.

    Args:
        source (`str` or `Path`): ORG/NAME on the Hub, or a folder.
        revision (`str`, *optional*): branch, tag or commit of a Hub repo.

    Raises:
        ValueError: names every difference.
    """
    if Path(source).is_dir():
        if revision is not None:
            raise ValueError(f"Got revision={revision!r} for the folder {source}: only Hub repos have revisions.")
        folder, commit = Path(source), ""
        names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    else:
        with explained(str(source)):
            api = HfApi()
            commit = str(repo_info(api, str(source), revision).sha)
            there = repo_files(api, str(source), commit)
            names = list(there)
            wanted = [name for name in names if name.endswith(".py") or name in files.FILES_THAT_NAME_CODE]
            if "config.json" not in wanted:
                raise ValueError(f"{source} has no config.json: expected a variant (divprune-hf convert).")
            folder = download(str(source), commit, {name: there[name] for name in wanted}, LARGEST_CODE)
    code = {name: (folder / name).read_bytes() for name in sorted(names) if name.endswith(".py")}
    differences = code_differences(code)
    config, processor_config = (files.read_json(folder / name) for name in files.EDITED_FILES)
    differences += config_differences(config, processor_config, source)
    differences += [
        f"{name} can run code when it is loaded" for name in names if files.matches(name, files.PICKLED_PATTERNS)
    ]
    adapters = [name for name in names if files.matches(name, files.ADAPTER_PATTERNS)]
    differences += [f"{name} can make transformers load another model" for name in adapters]
    if not any(name.endswith(".safetensors") for name in names):
        differences.append("there are no safetensors weights")
    if differences:
        raise ValueError(printable(f"{source} is not what this package ships: {'; '.join(differences)}."))
    files.check_no_foreign_code(folder)
    return Verified(str(source), commit, sorted(code))
