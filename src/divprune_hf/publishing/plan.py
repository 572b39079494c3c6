"""The plan of a push: every file of a variant, and the source of each."""

from dataclasses import dataclass, fields, replace
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationCopy, CommitOperationDelete, HfApi
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.hf_api import RepoFile

from divprune_hf.checkpoints import files
from divprune_hf.checkpoints.hub_errors import explanation
from divprune_hf.checkpoints.hub_files import is_same, repo_files
from divprune_hf.common.printable import printable


# The huggingface_hub that transformers 4.57 requires cannot copy between repos.
Operation = CommitOperationAdd | CommitOperationCopy | CommitOperationDelete

CAN_COPY = "src_repo_id" in {field.name for field in fields(CommitOperationCopy)}
# Files of a model. A push deletes those of the target that the variant lacks, such as stale shards.
MODEL_PATTERNS = [
    *files.WEIGHT_PATTERNS,
    *(pattern for pattern in files.COPIED_PATTERNS if pattern not in files.LEGAL_PATTERNS),
    *files.PICKLED_PATTERNS,
    *files.ADAPTER_PATTERNS,
    "*.py",
]


@dataclass(frozen=True)
class Base:
    """A Hub base at a commit, and its files by path. `refusal` says why nothing can be copied from it."""

    repo_id: str
    commit: str
    files: dict[str, RepoFile]
    refusal: str | None = None


@dataclass(frozen=True)
class PlannedFile:
    """A file of a variant.

    Attributes:
        size: in bytes.
        origin: `"upload"`, `"copy"` from the base, or `"unchanged"` if the target has it already.
        content: its bytes, or the place of a file with them; None if only the base has them.
        base: the base, if it has a large file with this content at this path.
    """

    path: str
    size: int
    origin: str
    content: bytes | Path | None
    base: Base | None = None

    @property
    def where_from(self) -> str:
        """The source of the file in words."""
        if self.origin == "copy" and self.base is not None:
            return printable(f"copied on the Hub from {self.base.repo_id}@{self.base.commit[:12]}")
        return {"upload": "uploaded", "unchanged": "there already"}[self.origin]

    def operation(self) -> Operation:
        """Return what a commit has to do for this file."""
        if self.origin == "copy" and self.base is not None:
            return CommitOperationCopy(
                self.path,
                self.path,
                src_revision=self.base.commit,
                src_repo_id=self.base.repo_id,
                src_repo_type="model",
            )
        return CommitOperationAdd(self.path, self.content)  # type: ignore[arg-type]  # an upload has one


@dataclass(frozen=True)
class Plan:
    """The files of a variant, and the stale files of the target, which the push deletes."""

    files: list[PlannedFile]
    stale: list[str]

    @property
    def changes(self) -> bool:
        """True if the push makes a commit."""
        return bool(self.stale) or any(file.origin != "unchanged" for file in self.files)

    @property
    def upload_bytes(self) -> int:
        """The size of the files to upload, in bytes."""
        return sum(file.size for file in self.files if file.origin == "upload")

    def operations(self) -> list[Operation]:
        """Return the operations of the one commit that a push makes."""
        changed = [file.operation() for file in self.files if file.origin != "unchanged"]
        return [*changed, *(CommitOperationDelete(path) for path in self.stale)]

    def as_uploads(self) -> "Plan":
        """Return the plan without copies, for a Hub that refuses them.

        Raises:
            ValueError: a file to upload is not on this machine.
        """
        absent = [file.path for file in self.files if file.origin == "copy" and file.content is None]
        if absent:
            raise ValueError(
                f"Without a copy on the Hub the weights ({', '.join(absent)}) have to be downloaded and uploaded "
                "again: pass --upload-weights (upload_weights=True) to do that."
            )
        uploads = [replace(file, origin="upload") if file.origin == "copy" else file for file in self.files]
        return replace(self, files=uploads)

    def describe(self) -> str:
        """Return one line for each file with its size, name and source, and one with the size to upload."""
        lines = [f"{size_text(file.size):>9}  {printable(file.path)}  ({file.where_from})" for file in self.files]
        lines += [f"{'':>9}  {printable(path)}  (deleted)" for path in self.stale]
        return "\n".join([*lines, f"{size_text(self.upload_bytes)} to upload."])


def find_base(api: HfApi, recorded: dict[str, str] | None, upload_weights: bool) -> Base | None:
    """Return the base that a config records, with its files; None if it records none."""
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
    """Plan one file: the target has it already, the Hub can copy it from the base, or it is uploaded."""
    size = len(content) if isinstance(content, bytes) else content.stat().st_size
    source = base.files.get(path) if base else None
    in_base = source is not None and bool(source.lfs) and is_same(content, size, source)
    if path in target and is_same(content, size, target[path]):
        origin = "unchanged"
    elif base and not base.refusal and source and in_base and source.xet_hash:  # which old versions of the client lack
        origin = "copy"
    else:
        origin = "upload"
    return PlannedFile(path, size, origin, content, base if in_base else None)


def plan_remote_file(path: str, base: Base, target: dict[str, RepoFile]) -> PlannedFile:
    """Plan one file that only the base has: the target has it already, or the Hub copies it."""
    source, there = base.files[path], target.get(path)
    same = there is not None and there.lfs and source.lfs and there.lfs.sha256 == source.lfs.sha256
    return PlannedFile(path, source.size, "unchanged" if same else "copy", None, base)


def changed_weights(planned: list[PlannedFile], base: Base | None) -> list[str]:
    """Return the files of weights that are known to differ from the base's."""
    if base is None or not base.files:
        return []
    return [file.path for file in planned if file.path.endswith(".safetensors") and file.base is None]


def stale_files(planned: list[PlannedFile], target: dict[str, RepoFile]) -> list[str]:
    """Return the files of a model that the target has and the variant lacks."""
    kept = {file.path for file in planned}
    return sorted(path for path in target if path not in kept and files.matches(path, MODEL_PATTERNS))


def size_text(size: int) -> str:
    """Return a number of bytes in decimal units, such as 14.1 GB."""
    value = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            break
        value /= 1000
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
