"""A base on the Hub as a folder of the cache: its small files first, so that a refusal costs no weights."""

from pathlib import Path

from huggingface_hub import HfApi, constants, snapshot_download

from divprune_hf.checkpoints import files
from divprune_hf.checkpoints.hub_files import download, repo_files, repo_info
from divprune_hf.publishing.variant_files import judged_base


LARGEST_SMALL_FILES = 2**28  # bytes of configs, tokenizer and licences together


def hub_folder(base: str, revision: str | None, with_weights: bool) -> tuple[Path, str]:
    """The folder and the commit of a base; offline, those in the cache.

    What is downloaded is compared with the sizes and hashes that the Hub lists at that commit.
    """
    if constants.HF_HUB_OFFLINE:
        folder = Path(snapshot_download(base, revision=revision)).resolve()
        judged_base(base, folder)
        return folder, folder.name
    api = HfApi()
    commit = str(repo_info(api, base, revision).sha)
    there = repo_files(api, base, commit)
    small = {name: file for name, file in there.items() if is_small(name)}
    if "config.json" not in small:
        raise ValueError(f"{base} has no config.json: expected a checkpoint.")
    folder = download(base, commit, small, LARGEST_SMALL_FILES).resolve()
    judged_base(base, folder)
    weights = {name: file for name, file in there.items() if is_weights(name)}
    if with_weights and weights:
        download(base, commit, weights)
    return folder, commit


def is_small(name: str) -> bool:
    """Tell whether a file of a base other than its weights has a place in a variant, or in its making."""
    nested = name.startswith("additional_chat_templates/")
    wanted = [*files.EDITED_FILES, *files.COPIED_PATTERNS, files.INDEX]
    return ("/" not in name or nested) and files.matches(name, wanted)


def is_weights(name: str) -> bool:
    return "/" not in name and name.endswith(".safetensors")
