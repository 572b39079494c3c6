"""A Hub with a client for tests of publishing, and what its repos hold."""

import dataclasses
import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import CommitOperationCopy

from tests.helpers.folders import file_hashes
from tests.helpers.hub_store import HubStore


WRITER, READER, STRANGER = "hf_" + "w" * 34, "hf_" + "r" * 34, "hf_" + "s" * 34
# What the installed huggingface_hub can do: transformers 4.57 pins one that cannot copy between repos.
CAN_COPY = "src_repo_id" in {field.name for field in dataclasses.fields(CommitOperationCopy)}
BASE_ID = "llava-hf/llava-1.5-7b-hf"  # a name that the table of variants knows; what it holds here is tiny


@dataclass
class Answer:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def error(self):
        """The one line that a refused command prints."""
        assert self.code == 2, (self.code, self.out, self.err)
        (line,) = [line for line in self.err.splitlines() if line.startswith("divprune-hf: error: ")]
        assert "Traceback" not in self.err
        return line


@dataclass
class Hub:
    """A loopback Hub with a process that runs console commands against it."""

    store: HubStore
    environment: dict
    process: subprocess.Popen

    def run(self, *arguments, token=WRITER, load=False, largest_file=None):
        options = {"token": token, "load": load, "largest_file": largest_file}
        request = {"arguments": [str(argument) for argument in arguments], **options}
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        answer = Answer(**json.loads(self.process.stdout.readline()))
        assert not any(secret in answer.out + answer.err for secret in (WRITER, READER, STRANGER))
        return answer

    def succeed(self, *arguments, **options):
        answer = self.run(*arguments, **options)
        assert answer.code == 0, answer.err
        return answer

    def cached(self, repo_id):
        """The names of the files of a repo in the client's cache."""
        folder = Path(self.environment["HF_HOME"], "hub", "models--" + repo_id.replace("/", "--"))
        return {path.name for path in folder.glob("snapshots/*/**/*")}


def contents(repo, revision="main"):
    """The SHA-256 of every file that a repo holds, but for what the Hub itself puts there."""
    return {path: blob.sha256 for path, blob in repo.files(revision).items() if path != ".gitattributes"}


def without_card(hashes):
    return {path: digest for path, digest in hashes.items() if path != "README.md"}


def assert_holds(repo, folder, revision="main"):
    """A repo holds the files of a folder; the card names the repo and differs."""
    assert without_card(contents(repo, revision)) == without_card(file_hashes(folder))


def sent_weights(hub):
    """How many large files a client uploaded."""
    return sum(method == "PUT" and path.startswith("/lfs/") for method, path, _ in hub.store.requests)


def commits(hub):
    return sum(method == "POST" and "/commit/" in path for method, path, _ in hub.store.requests)
