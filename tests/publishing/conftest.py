"""Fixtures: bases that a test may change, and a Hub on the loopback interface with a client."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import hub_client
import pytest
from folders import file_hashes
from hub_server import loopback_hub
from hub_store import HubStore


WRITER, READER, STRANGER = "hf_" + "w" * 34, "hf_" + "r" * 34, "hf_" + "s" * 34
BASE_ID = "llava-hf/llava-1.5-7b-hf"  # a name that the table of variants knows; what it holds here is tiny


@pytest.fixture
def base(make_checkpoint, tmp_path):
    """A stock checkpoint of this test's own."""
    return shutil.copytree(make_checkpoint().base, tmp_path / "base")


@pytest.fixture
def sharded_base(make_checkpoint, tmp_path):
    """The same with its weights in three files and an index."""
    return shutil.copytree(make_checkpoint(num_shards=3).base, tmp_path / "base")


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

    @property
    def cached(self):
        """The names of all files in the client's cache."""
        return {path.name for path in Path(self.environment["HF_HOME"]).rglob("*") if path.is_symlink()}


@pytest.fixture(scope="session")
def running_hub(tmp_path_factory):
    home = tmp_path_factory.mktemp("hf_home")
    with loopback_hub({WRITER: "write", READER: "read"}) as (url, store):
        environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        environment |= {
            "HF_ENDPOINT": url,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            "DISABLE_SAFETENSORS_CONVERSION": "1",
            "TQDM_DISABLE": "1",
        }
        command = [sys.executable, hub_client.__file__]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        process = subprocess.Popen(command, env=environment, text=True, **pipes)
        yield Hub(store, environment, process)
        process.stdin.close()
        process.wait(timeout=60)


@pytest.fixture
def hub(running_hub, make_checkpoint):
    """The Hub with nothing on it but a base, whose id the table of variants knows."""
    store = running_hub.store
    store.repos.clear(), store.faults.clear(), store.requests.clear()
    store.add(BASE_ID, make_checkpoint().base)
    return running_hub


@pytest.fixture(scope="session")
def converted(running_hub, make_checkpoint, tmp_path_factory):
    """A variant converted from the Hub base, with 5 tokens; not to be changed."""
    running_hub.store.add(BASE_ID, make_checkpoint().base)
    out = tmp_path_factory.mktemp("converted") / "lean"
    running_hub.succeed("convert", BASE_ID, out, "--num-tokens", "5")
    return out


@pytest.fixture
def variant(converted, tmp_path):
    """The same for this test to change."""
    return shutil.copytree(converted, tmp_path / "lean")


def contents(repo, revision="main"):
    """The SHA-256 of every file that a repo holds, but for what the Hub itself puts there."""
    return {path: blob.sha256 for path, blob in repo.files(revision).items() if path != ".gitattributes"}


def without_card(hashes):
    return {path: digest for path, digest in hashes.items() if path != "README.md"}


def assert_holds(repo, folder, revision="main"):
    """A repo holds the files of a folder; the card names the repo and differs."""
    assert without_card(contents(repo, revision)) == without_card(file_hashes(folder))
