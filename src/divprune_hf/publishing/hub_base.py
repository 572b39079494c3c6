"""A base as a folder of small files, and its weights, which are downloaded only when a conversion needs them."""

from dataclasses import dataclass, field
from pathlib import Path

from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import validate_repo_id

from divprune_hf.checkpoints import files
from divprune_hf.checkpoints.hub_errors import explained
from divprune_hf.checkpoints.hub_files import download, repo_files, repo_info
from divprune_hf.publishing.variant_files import judged_base


LARGEST_SMALL_FILES = 2**28  # bytes of configs, tokenizer and licences together


@dataclass(frozen=True)
class LocalBase:
    """A base whose small files are on this machine.

    Attributes:
        source: the folder or Hub id by which the user named it.
        folder: where its files are.
        commit: the commit of a Hub repo; None for a folder.
        files: the files that the Hub lists at that commit, by path; empty for a folder, and offline.
    """

    source: str
    folder: Path
    commit: str | None = None
    files: dict[str, RepoFile] = field(default_factory=dict)

    def download_weights(self) -> None:
        """Bring the weights of a Hub base into its folder; without a list of files they are there already."""
        weights = {name: file for name, file in self.files.items() if is_weights(name)}
        if self.commit is not None and weights:
            with explained(f"the base {self.source}"):
                download(self.source, self.commit, weights)


def local_base(source: str | Path, revision: str | None = None) -> LocalBase:
    """Return a base with its small files judged; those of a Hub repo are downloaded, without the weights.

    Args:
        source: a folder, or the id of a Hub repo.
        revision: branch, tag or commit of a Hub repo.

    Raises:
        ValueError: neither a folder nor a Hub repo, a revision given for a folder, a base that cannot be converted, or
            an error of the Hub.
    """
    if Path(source).is_dir():
        if revision is not None:
            raise ValueError(f"Got base_revision={revision!r} for the folder {source}: only Hub repos have revisions.")
        return LocalBase(str(source), Path(source).resolve())
    try:
        validate_repo_id(str(source))
    except ValueError:
        raise ValueError(f"{source} is neither a folder nor the id of a Hub repo.") from None
    with explained(f"the base {source}"):
        base = hub_base(str(source), revision)
        judged_base(base.source, base.folder)
    return base


def hub_base(repo_id: str, revision: str | None) -> LocalBase:
    """Return a Hub base; offline, the one in the cache with all its files.

    Each download is compared with the size and hash that the Hub lists at the commit.
    """
    if constants.HF_HUB_OFFLINE:
        folder = Path(snapshot_download(repo_id, revision=revision)).resolve()
        return LocalBase(repo_id, folder, folder.name)
    api = HfApi()
    commit = str(repo_info(api, repo_id, revision).sha)
    there = repo_files(api, repo_id, commit)
    small = {name: file for name, file in there.items() if is_small(name)}
    if "config.json" not in small:
        raise ValueError(f"{repo_id} has no config.json: expected a checkpoint.")
    return LocalBase(repo_id, download(repo_id, commit, small, LARGEST_SMALL_FILES).resolve(), commit, there)


def is_small(name: str) -> bool:
    """Tell whether `convert` reads or copies a file of a base that is not one of its weights."""
    nested = name.startswith("additional_chat_templates/")
    wanted = [*files.EDITED_FILES, *files.COPIED_PATTERNS, files.INDEX]
    return ("/" not in name or nested) and files.matches(name, wanted)


def is_weights(name: str) -> bool:
    """Tell whether a file of a base is one of its weights."""
    return "/" not in name and name.endswith(".safetensors")
