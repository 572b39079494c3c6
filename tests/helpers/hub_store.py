"""What a Hub keeps: repos with commits, branches, tags, and the large files that each repo may refer to."""

import base64
import hashlib
import threading
from dataclasses import dataclass, field


LFS_SUFFIXES = (".safetensors", ".bin", ".model", ".pt")
GITATTRIBUTES = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES).encode()


class HubError(Exception):
    """An answer that is an error: its status, the Hub's code for it, and what it says."""

    def __init__(self, status, message, code=None):
        super().__init__(message)
        self.status, self.message, self.code = status, message, code


@dataclass(frozen=True)
class Blob:
    """The content of a file, and whether it is stored as a large one."""

    content: bytes
    lfs: bool

    @property
    def sha256(self):
        return hashlib.sha256(self.content).hexdigest()

    @property
    def pointer(self):
        text = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(self.content)}\n"
        return text.encode()

    @property
    def oid(self):
        """Git's name for the blob; of a large file, for its pointer."""
        stored = self.pointer if self.lfs else self.content
        return hashlib.sha1(b"blob %d\0" % len(stored) + stored).hexdigest()

    @property
    def etag(self):
        return self.sha256 if self.lfs else self.oid

    def described(self, path):
        """As the tree and paths-info endpoints name it."""
        entry = {"type": "file", "oid": self.oid, "size": len(self.content), "path": path}
        if self.lfs:
            entry["lfs"] = {"oid": self.sha256, "size": len(self.content), "pointerSize": len(self.pointer)}
            entry["xetHash"] = hashlib.sha256(b"xet" + self.content).hexdigest()
        return entry


@dataclass
class Repo:
    """A model repo. `large` holds the large files that a commit of it may name."""

    name: str
    private: bool = False
    gated: bool = False
    commits: dict = field(default_factory=dict)  # commit -> {path: Blob}
    branches: dict = field(default_factory=dict)
    tags: dict = field(default_factory=dict)
    large: dict = field(default_factory=dict)  # sha256 -> content
    log: list = field(default_factory=list)  # commits in order

    def __post_init__(self):
        self.commit("main", {".gitattributes": Blob(GITATTRIBUTES, False)})

    def commit(self, branch, files):
        listing = repr((self.name, len(self.log), branch, sorted((path, blob.oid) for path, blob in files.items())))
        commit = hashlib.sha1(listing.encode()).hexdigest()
        self.commits[commit] = files
        self.branches[branch] = commit
        self.log.append(commit)
        return commit

    def resolve(self, revision):
        commit = self.branches.get(revision) or self.tags.get(revision) or revision
        if commit not in self.commits:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit

    def files(self, revision="main"):
        return self.commits[self.resolve(revision)]


class HubStore:
    """All repos of a Hub, its tokens, and the faults that a test asks for.

    Attributes:
        tokens: what each token may do: `"write"` or `"read"`.
        faults: `"cut_upload"`, `"cut_commit"`: how many such requests lose their connection half way;
            `"refuse_duplicate"`: server-side copies are refused; `"echo"`: errors repeat the request's headers.
        requests: method, path and size of the body of every request.
    """

    def __init__(self, tokens):
        self.tokens = tokens
        self.repos = {}
        self.faults = {}
        self.requests = []
        self.before_commit = None  # called once when a commit arrives, before it is looked at
        self.lock = threading.RLock()

    def add(self, name, folder=None, texts=(), **settings):
        """A repo that is there already, with the files of a folder; returns it."""
        repo = self.repos[name] = Repo(name, **settings)
        found = folder.rglob("*") if folder else ()
        files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in found if path.is_file()}
        self.fill(repo, {**files, **dict(texts)})
        return repo

    def fill(self, repo, contents, branch="main"):
        blobs = {path: Blob(content, path.endswith(LFS_SUFFIXES)) for path, content in contents.items()}
        repo.large.update({blob.sha256: blob.content for blob in blobs.values() if blob.lfs})
        return repo.commit(branch, {**repo.files(branch), **blobs})

    def find(self, name, role):
        """The repo of that name, if who asks may see it; a private one is only seen by those who may write."""
        repo = self.repos.get(name)
        if repo is None or (repo.private and role != "write"):
            raise HubError(401 if role is None else 404, "Repository not found", "RepoNotFound")
        return repo

    def apply(self, repo, branch, lines):
        """A commit, from the lines of its ndjson."""
        header = next(line["value"] for line in lines if line["key"] == "header")
        if branch not in repo.branches:
            raise HubError(404, f"Invalid rev id: {branch}", "RevisionNotFound")
        parent = header.get("parentCommit")
        if parent and parent != repo.branches[branch]:
            raise HubError(412, "A commit has happened since. Please refresh and try again.")
        files = dict(repo.files(branch))
        for line in lines:
            change_files(repo, files, line["key"], line["value"])
        return repo.commit(branch, files)

    def take_fault(self, name):
        """Whether a fault that was asked for happens now; it is used up then."""
        with self.lock:
            left = self.faults.get(name, 0)
            self.faults[name] = max(left - 1, 0)
            return left > 0


def change_files(repo, files, key, value):
    path = value.get("path")
    if key == "file":
        files[path] = Blob(base64.b64decode(value["content"]), False)
    elif key == "lfsFile":
        if value["oid"] not in repo.large:
            raise HubError(422, f"The large file {path} was not uploaded")
        files[path] = Blob(repo.large[value["oid"]], True)
    elif key == "deletedFile":
        if files.pop(path, None) is None:
            raise HubError(404, "A file with this name doesn't exist", "EntryNotFound")
    elif key != "header":
        raise HubError(400, f"unknown operation {key}")
