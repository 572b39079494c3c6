"""The plan of a push: every file of a variant, and where each comes from."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationCopy,
    CommitOperationDelete,
    HfApi,
)
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.hf_api import RepoFile

from divprune_hf.checkpoints import files
from divprune_hf.checkpoints.hub_errors import explanation
from divprune_hf.checkpoints.hub_files import is_same, repo_files
from divprune_hf.common.printable import printable


# The huggingface_hub that transformers 4.57 pins cannot copy between repos.
CAN_COPY = "src_repo_id" in {field.name for field in dataclasses.fields(CommitOperationCopy)}
# Files of a model: what a target has of them and the variant has not is deleted with the push, such as stale shards.
MODEL_PATTERNS = [
    *files.WEIGHT_PATTERNS,
    *(pattern for pattern in files.COPIED_PATTERNS if pattern not in files.LEGAL_PATTERNS),
    *files.PICKLED_PATTERNS,
    *files.ADAPTER_PATTERNS,
    "*.py",
]


@dataclass(frozen=True)
class Base:
    """A Hub base at a commit, and its files by path; `refusal` says why nothing can be copied from it."""

    repo_id: str
    commit: str
    files: dict[str, RepoFile]
    refusal: str | None = None


@dataclass(frozen=True)
class PlannedFile:
    """A file of a variant.

    Attributes:
        origin: `"upload"`, `"copy"` from the base, or `"unchanged"` if the target has it already.
        content: its bytes or where they are; None if only the base has them.
        base: the base, if it has a large file with this content at this path.
    """

    path: str
    size: int
    origin: str
    content: bytes | Path | None
    base: Base | None = None

    @property
    def where_from(self) -> str:
        if self.origin == "copy" and self.base is not None:
            return printable(f"copied on the Hub from {self.base.repo_id}@{self.base.commit[:12]}")
        return {"upload": "uploaded", "unchanged": "there already"}[self.origin]

    def operation(self):
        if self.origin == "upload":
            return CommitOperationAdd(self.path, self.content)
        return CommitOperationCopy(
            self.path,
            self.path,
            src_revision=self.base.commit,
            src_repo_id=self.base.repo_id,
            src_repo_type="model",
        )


def find_base(api: HfApi, recorded: dict | None, upload_weights: bool) -> Base | None:
    """The base that a config records, with what can be copied from it; None if there is none."""
    if not recorded:
        return None
    repo_id, commit = recorded["repo_id"], recorded["commit"]
    try:
        there = repo_files(api, repo_id, commit)
    except HfHubHTTPError as error:
        return Base(repo_id, commit, {}, explanation(error, repo_id))
    if upload_weights:
        return Base(repo_id, commit, there, "uploading was asked for")
    if not CAN_COPY:
        return Base(repo_id, commit, there, "the installed huggingface_hub is too old for copies between repos")
    return Base(repo_id, commit, there)


def plan_file(path: str, content: bytes | Path, base: Base | None, target: dict[str, RepoFile]) -> PlannedFile:
    """Decide where a file comes from: the target has it, the Hub can copy it from the base, or it is uploaded."""
    size = len(content) if isinstance(content, bytes) else content.stat().st_size
    source = base.files.get(path) if base else None
    in_base = source is not None and bool(source.lfs) and is_same(content, size, source)
    if path in target and is_same(content, size, target[path]):
        origin = "unchanged"
    elif base and not base.refusal and source and in_base and source.xet_hash:  # which old versions do not know
        origin = "copy"
    else:
        origin = "upload"
    return PlannedFile(path, size, origin, content, base if in_base else None)


def plan_remote_file(path: str, base: Base, target: dict[str, RepoFile]) -> PlannedFile:
    """The same for a file that only the base has."""
    source, there = base.files[path], target.get(path)
    same = there is not None and there.lfs and source.lfs and there.lfs.sha256 == source.lfs.sha256
    return PlannedFile(path, source.size, "unchanged" if same else "copy", None, base)


def changed_weights(plan: list[PlannedFile], base: Base | None) -> list[str]:
    """The files of weights that are known not to be the base's."""
    if base is None or not base.files:
        return []
    return [file.path for file in plan if file.path.endswith(".safetensors") and file.base is None]


def stale_files(plan: list[PlannedFile], target: dict[str, RepoFile]) -> list[str]:
    """Files that the target has from an earlier variant, and the new one has not."""
    kept = {file.path for file in plan}
    return sorted(path for path in target if path not in kept and files.matches(path, MODEL_PATTERNS))


def operations(plan: list[PlannedFile], stale: list[str]) -> list:
    """The operations of the one commit that a push makes."""
    changed = [file.operation() for file in plan if file.origin != "unchanged"]
    return [*changed, *(CommitOperationDelete(path) for path in stale)]


def as_uploads(plan: list[PlannedFile]) -> list[PlannedFile]:
    """The plan without copies, for a server that refuses them."""
    absent = [file.path for file in plan if file.origin == "copy" and file.content is None]
    if absent:
        raise ValueError(
            f"Without a copy on the Hub the weights ({', '.join(absent)}) have to be downloaded and uploaded again: "
            "pass --upload-weights (upload_weights=True) to do that."
        )
    return [dataclasses.replace(file, origin="upload") if file.origin == "copy" else file for file in plan]


def describe(plan: list[PlannedFile], stale: list[str]) -> str:
    """The files, one a line: size, name, and where each comes from."""
    lines = [f"{size_text(file.size):>9}  {printable(file.path)}  ({file.where_from})" for file in plan]
    lines += [f"{'':>9}  {printable(path)}  (deleted)" for path in stale]
    sent = sum(file.size for file in plan if file.origin == "upload")
    return "\n".join([*lines, f"{size_text(sent)} to upload."])


def size_text(size: int) -> str:
    """A number of bytes for people: 14.1 GB."""
    value = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            break
        value /= 1000
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
