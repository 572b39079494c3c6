"""Commands that speak to a hostile Hub end in time, with one line of error, and leave nothing half done anywhere.

The client process runs with the libraries' most talkative settings; neither they nor a command ever show the token.
"""

import json
import os
import shutil
import subprocess
import sys
import time
import unicodedata
from dataclasses import dataclass
from pathlib import Path

import hostile_client
import hostile_hub as hostile
import pytest
from hub_parts import BASE_ID, CAN_COPY, READER, WRITER, Answer
from hub_server import loopback_hub
from hub_store import HubStore


TARGET, VERIFIED = "org/lean-llava", "org/verified"
SECONDS, ANSWER_BYTES = 1.5, 2**24  # the client's limits
TALKATIVE = {"HF_DEBUG": "1", "HF_HUB_VERBOSITY": "debug", "TRANSFORMERS_VERBOSITY": "debug"}


@dataclass
class HostileHub:
    """A Hub, another host, a client process, and the file with what the client's libraries log."""

    store: HubStore
    elsewhere: str
    seen_elsewhere: list
    environment: dict
    log: Path
    process: subprocess.Popen

    def run(self, *arguments):
        """Run a command; whatever happens, it ends in time and shows no token and no terminal escape."""
        logged, began = self.log.stat().st_size, time.monotonic()
        self.process.stdin.write(json.dumps([str(argument) for argument in arguments]) + "\n")
        self.process.stdin.flush()
        answer = Answer(**json.loads(self.process.stdout.readline()))
        assert time.monotonic() - began < 60
        text = self.log.read_bytes()[logged:].decode(errors="replace")
        assert "huggingface_hub" in text or "Request " in text  # the libraries are talkative indeed
        for shown in (answer.out, answer.err, text):
            assert WRITER not in shown
            assert not escapes_in(shown), escapes_in(shown)
        return answer

    def succeed(self, *arguments):
        answer = self.run(*arguments)
        assert answer.code == 0, answer.err
        return answer

    def turn(self, hostility, at="."):
        self.store.hostility, self.store.hostile_at, self.store.hostile_requests = hostility, at, 0

    def be_honest(self):
        self.store.hostility = None

    def forget(self):
        for folder in Path(self.environment["HF_HOME"], "hub").glob("models--*"):
            shutil.rmtree(folder)


def escapes_in(text):
    """Characters that could steer a terminal."""
    return {char for char in text if unicodedata.category(char) in ("Cc", "Cf") and char not in "\n\t\r"}


@pytest.fixture(scope="session")
def hostile_session(tmp_path_factory):
    home = tmp_path_factory.mktemp("hostile")
    tokens = {WRITER: "write", READER: "read"}
    with loopback_hub(tokens, hostile.HostileHandler) as (url, store), hostile.other_host() as (other, seen):
        store.elsewhere = other
        environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        environment |= {
            **TALKATIVE,
            "HF_ENDPOINT": url,
            "HF_HOME": str(home),
            "HF_TOKEN": WRITER,
            "HF_HUB_DISABLE_XET": "1",
            "TQDM_DISABLE": "1",
            "TEST_LIMITS": f"{SECONDS} {ANSWER_BYTES}",
        }
        command = [sys.executable, hostile_client.__file__]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        with (home / "log").open("wb") as log:
            process = subprocess.Popen(command, env=environment, text=True, stderr=log, **pipes)
            yield HostileHub(store, other, seen, environment, home / "log", process)
            process.stdin.close()
            process.wait(timeout=60)


@pytest.fixture(scope="session")
def lean(hostile_session, make_checkpoint, tmp_path_factory):
    """A variant with a recorded Hub base; not to be changed."""
    hostile_session.store.add(BASE_ID, make_checkpoint().base)
    hostile_session.turn(None)
    out = tmp_path_factory.mktemp("lean") / "lean"
    hostile_session.succeed("convert", BASE_ID, out, "--num-tokens", "5")
    return out


@pytest.fixture
def hub(hostile_session, lean, make_checkpoint):
    """An honest Hub with a base and a published variant, a client that has cached nothing, and nobody elsewhere."""
    store = hostile_session.store
    store.repos.clear(), store.requests.clear(), hostile_session.seen_elsewhere.clear()
    hostile_session.be_honest(), hostile_session.forget()
    store.page = 0
    store.add(BASE_ID, make_checkpoint().base)
    store.add(VERIFIED, lean)
    return hostile_session


def arguments_of(command, lean, tmp_path):
    upload = [] if CAN_COPY else ["--upload-weights"]
    return {
        "verify": ["verify", VERIFIED],
        "convert": ["convert", BASE_ID, tmp_path / "room" / "out", "--num-tokens", "5"],
        "push": ["push", lean, TARGET, "--public", "--upload-weights"],
        "publish": ["publish", BASE_ID, TARGET, "--public", "--num-tokens", "5", *upload],
    }[command]


def state(store):
    return {name: (list(repo.log), dict(repo.tags), repo.private) for name, repo in store.repos.items()}


def assert_nothing_happened(hub, before, tmp_path, committed=False):
    """No repo has changed and no OUT is there; the target is at most an empty private repo.

    `committed`: the Hub broke after the commit, which is then there for the next push, untagged and private.
    """
    after = state(hub.store)
    target = after.pop(TARGET, None)
    assert after == before
    assert not list((tmp_path / "room").glob("*")), list((tmp_path / "room").glob("*"))
    if target is not None:
        log, tags, private = target
        assert private and (committed or (len(log) == 1 and not tags))


KINDS = {
    "truncated": hostile.truncated,
    "page_200": hostile.page(200),
    "page_403": hostile.page(403),
    "page_404": hostile.page(404),
    "page_500": hostile.page(500),
    "page_503": hostile.page(503),
    "nothing_200": hostile.values(b""),
    "object": hostile.values({"error": "none"}),
    "list": hostile.values([1, "x", None]),
    "null": hostile.values(None),
    "number": hostile.values(7),
    "deep_nesting": hostile.values(b"[" * 100_000),
    "429_soon": hostile.later(429, 1),
    "429_in_years": hostile.later(429, 10**9),
    "503_in_years": hostile.later(503, 10**9),
    "reset": hostile.reset,
    "garbage": hostile.garbage,
    "silent": hostile.silent,
    "dripping_headers": hostile.dripping_headers,
    "dripping_body": hostile.dripping_body,
    "endless_body": hostile.endless_body,
    "bomb": hostile.bomb,
    "elsewhere": hostile.elsewhere,
    "around": hostile.around,
    "escapes": hostile.escapes,
}
COMMANDS = ("verify", "convert", "push", "publish")
# Where a command has come, by the requests that turn hostile: (command, stage, requests, whether a commit is there).
STAGES = [
    ("verify", "tree", "GET .*/tree/", False),
    ("verify", "file_head", "HEAD .*/resolve/", False),
    ("verify", "file", "GET .*/resolve/", False),
    ("convert", "tree", "GET .*/tree/", False),
    ("convert", "file_head", "HEAD .*/resolve/", False),
    ("convert", "file", "GET .*/resolve/", False),
    ("convert", "weights", "GET .*/resolve/.*safetensors", False),
    ("publish", "tree", "GET .*/tree/", False),
    ("publish", "weights", "GET .*/resolve/.*safetensors", False),
    ("push", "create", "POST /api/repos/create", False),
    ("push", "preupload", "POST .*/preupload/", False),
    ("push", "batch", "POST .*/objects/batch", False),
    ("push", "upload", "PUT /lfs/", False),
    ("push", "lfs_verify", "POST /lfs/.*/verify", False),
    ("push", "commit", "POST .*/commit/", False),
    ("publish", "commit", "POST .*/commit/", False),
    ("push", "tag", "POST .*/tag/", True),
    ("push", "public", "PUT .*/settings", True),
]
LATER_KINDS = ("truncated", "page_200", "list", "reset", "silent", "429_in_years", "elsewhere", "escapes")
# Answers whose status alone counts for huggingface_hub: it takes an upload for done that was answered with any 200.
TAKEN_FOR_DONE = {
    (stage, kind) for stage in ("upload", "lfs_verify") for kind in ("page_200", "list", "truncated", "elsewhere")
}
CASES = [(kind, command, "all", ".", False) for command in COMMANDS for kind in KINDS]
CASES += [(kind, *stage) for stage in STAGES for kind in LATER_KINDS if (stage[1], kind) not in TAKEN_FOR_DONE]


@pytest.mark.parametrize(
    ("kind", "command", "stage", "at", "committed"), CASES, ids=[f"{case[1]}-{case[2]}-{case[0]}" for case in CASES]
)
def test_a_hostile_answer_is_one_line_and_leaves_nothing(hub, lean, tmp_path, kind, command, stage, at, committed):
    (tmp_path / "room").mkdir()
    before = state(hub.store)
    hub.turn(KINDS[kind], at)
    began = time.monotonic()
    error = hub.run(*arguments_of(command, lean, tmp_path)).error
    assert hub.store.hostile_requests, "the command never came to that"
    assert time.monotonic() - began < 5 * SECONDS + 5
    assert len(error) < 1000 and any(name in error for name in (TARGET, BASE_ID, VERIFIED)), error
    assert_nothing_happened(hub, before, tmp_path, committed)
    assert not any("authorization" in map(str.lower, headers) for headers in hub.seen_elsewhere)
    assert WRITER not in str(hub.seen_elsewhere)
