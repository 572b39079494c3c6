"""A client process that speaks to a hostile Hub, what commands it runs, and what must not have happened after them."""

import json
import os
import shutil
import subprocess
import sys
import time
import unicodedata
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.helpers import hostile_client
from tests.helpers import hostile_hub as hostile
from tests.helpers.hub_parts import BASE_ID, CAN_COPY, READER, WRITER, Answer
from tests.helpers.hub_server import loopback_hub
from tests.helpers.hub_store import HubStore


TARGET, VERIFIED = "org/lean-llava", "org/verified"
COMMANDS = ("verify", "convert", "push", "publish")
SECONDS, ANSWER_BYTES = 2.0, 2**24  # the client's limits; a busy machine can take a second for an honest answer
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
        logged, asked, began = self.log.stat().st_size, len(self.store.requests), time.monotonic()
        self.process.stdin.write(json.dumps([str(argument) for argument in arguments]) + "\n")
        self.process.stdin.flush()
        answer = Answer(**json.loads(self.process.stdout.readline()))
        assert time.monotonic() - began < 60
        text = self.log.read_bytes()[logged:].decode(errors="replace")
        if len(self.store.requests) > asked:
            assert "Request " in text  # the libraries are talkative indeed
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
            "SSL_CERT_DIR": str(home),  # no certificates, which take a while to read: nothing is encrypted here
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
