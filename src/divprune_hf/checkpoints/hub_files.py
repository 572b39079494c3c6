"""The files of a repo on the Hub: their list is checked, and each download is compared with its size and hash."""

import hashlib
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

from huggingface_hub import HfApi, ModelInfo, hf_hub_download
from huggingface_hub.hf_api import RepoFile

from divprune_hf.checkpoints.hub_limits import EXPECTED_BYTES, HubTrouble
from divprune_hf.common.printable import printable


MOST_FILES = 10_000  # of a repo
WORKERS = 8
HASH_CHUNK = 2**24  # bytes
COMMIT = re.compile(r"[0-9a-f]{40}")
SHA256 = re.compile(r"[0-9a-f]{64}")


def repo_info(api: HfApi, repo_id: str, revision: str | None = None) -> ModelInfo:
    """Return the Hub's record of a repo at a revision (branch, tag or commit).

    Raises:
        HubTrouble: it has no name, or its commit is not one.
    """
    info = api.model_info(repo_id, revision=revision)
    if not isinstance(info.id, str):
        raise HubTrouble(f"it calls {repo_id} {info.id!r}, expected a name.")
    checked_commit(info.sha)
    return info


def checked_commit(commit: Any) -> str:
    """Return a commit that the Hub named; raise `HubTrouble` unless it is 40 hexadecimal digits."""
    if not isinstance(commit, str) or not COMMIT.fullmatch(commit):
        raise HubTrouble(f"it named the commit {str(commit)[:80]!r}, expected 40 hexadecimal digits.")
    return commit


def repo_files(api: HfApi, repo_id: str, revision: str) -> dict[str, RepoFile]:
    """Return the files of a repo at a revision, by path; raise `HubTrouble` over an entry that no file can have."""
    found: dict[str, RepoFile] = {}
    for entry in api.list_repo_tree(repo_id, revision=revision, recursive=True):
        if len(found) >= MOST_FILES:
            raise HubTrouble(f"it lists more than {MOST_FILES} files, expected the few of a model.")
        if isinstance(entry, RepoFile):
            check_entry(entry)
            found[entry.path] = entry
    return found


def check_entry(entry: RepoFile) -> None:
    """Refuse an entry of a file list whose path, size or hash is impossible."""
    path = entry.path
    if not isinstance(path, str) or printable(path) != path:
        raise HubTrouble(f"it lists a file {path!r}, expected a name without control characters.")
    if not path or "\\" in path or path.startswith("/") or {"..", "."} & set(path.split("/")):
        raise HubTrouble(f"it lists a file {path!r}, expected a path within the repo.")
    if not isinstance(entry.size, int) or isinstance(entry.size, bool) or entry.size < 0:
        raise HubTrouble(f"it lists {path} with the size {entry.size!r}, expected a number of bytes.")
    digest_named = entry.lfs.sha256 if entry.lfs else entry.blob_id
    pattern = SHA256 if entry.lfs else COMMIT
    if not isinstance(digest_named, str) or not pattern.fullmatch(digest_named):
        raise HubTrouble(f"it lists {path} with the hash {digest_named!r}, expected hexadecimal digits.")


def download(repo_id: str, commit: str, wanted: dict[str, RepoFile], most_bytes: int | None = None) -> Path:
    """Download files into the cache, unless it holds them; return their folder.

    Args:
        repo_id: the repo.
        commit: the commit to take.
        wanted: the files, as `repo_files` lists them.
        most_bytes: the bytes that they may have together; without it, any number.

    Raises:
        HubTrouble: they are larger, or a download differs from its size or hash twice.
    """
    size = sum(file.size for file in wanted.values())
    if most_bytes is not None and size > most_bytes:
        raise HubTrouble(f"it lists {size} bytes of code and configs, expected {most_bytes} at most.")
    pool = ThreadPoolExecutor(WORKERS)
    try:
        paths = list(pool.map(lambda name: fetch(repo_id, commit, wanted[name]), wanted))
    finally:
        pool.shutdown(cancel_futures=True)
    name, path = next(iter(wanted)), paths[0]
    return path.parents[len(PurePosixPath(name).parts) - 1]


def fetch(repo_id: str, commit: str, file: RepoFile) -> Path:
    """Download one file and compare it with its size and hash; one that differs is downloaded once more."""
    known = EXPECTED_BYTES.set(file.size)
    try:
        for again in (False, True):
            path = cached_file(repo_id, commit, file.path, again)
            if path is not None and is_same(path, path.stat().st_size, file):
                return path
    finally:
        EXPECTED_BYTES.reset(known)
    raise HubTrouble(
        f"the content of {file.path} has another size or hash than the Hub lists at commit {commit}: run this again "
        "later."
    )


def cached_file(repo_id: str, commit: str, name: str, again: bool) -> Path | None:
    """Return the place of a file in the cache, or None if a download had another size than announced.

    huggingface_hub keeps such a partial file and would continue from its end every time; `again` drops it.
    """
    try:
        return Path(hf_hub_download(repo_id, name, revision=commit, force_download=again))
    except OSError as error:
        if "Consistency check failed" not in str(error):
            raise
        return None


def is_same(content: bytes | Path, size: int, remote: RepoFile) -> bool:
    """Tell whether a repo's file has this content. The hash is computed only if the sizes (bytes) are equal."""
    if size != remote.size:
        return False
    if remote.lfs:
        return digest(hashlib.sha256(), content) == remote.lfs.sha256
    return digest(hashlib.sha1(b"blob %d\0" % size), content) == remote.blob_id  # the hash that git gives a file


def digest(hasher: Any, content: bytes | Path) -> str:
    """Return the hexadecimal digest of a content, read by chunks; `hasher` is one of hashlib."""
    if isinstance(content, bytes):
        hasher.update(content)
        return hasher.hexdigest()
    with content.open("rb") as file:
        while chunk := file.read(HASH_CHUNK):
            hasher.update(chunk)
    return hasher.hexdigest()
