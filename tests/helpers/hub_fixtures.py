"""Fixtures: bases that a test may change, and a Hub on the loopback interface with a client."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.hub_parts import BASE_ID, READER, WRITER, Hub
from tests.helpers.hub_server import loopback_hub


ROOT = Path(__file__).parents[2]


@pytest.fixture
def base(make_checkpoint, tmp_path):
    """A stock checkpoint of this test's own."""
    return shutil.copytree(make_checkpoint().base, tmp_path / "base")


@pytest.fixture
def sharded_base(make_checkpoint, tmp_path):
    """The same with its weights in three files and an index."""
    return shutil.copytree(make_checkpoint(num_shards=3).base, tmp_path / "base")


@pytest.fixture(scope="session")
def running_hub(tmp_path_factory):
    """The server, in this process, and a client process that knows no other Hub."""
    home = tmp_path_factory.mktemp("hf_home")
    with loopback_hub({WRITER: "write", READER: "read"}) as (url, store):
        environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        environment |= {
            "HF_ENDPOINT": url,
            "HF_HOME": str(home),
            "SSL_CERT_DIR": str(home),  # no certificates, which take a while to read: nothing is encrypted here
            "HF_HUB_DISABLE_XET": "1",
            "DISABLE_SAFETENSORS_CONVERSION": "1",
            "TQDM_DISABLE": "1",
        }
        command = [sys.executable, "-m", "tests.helpers.hub_client"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        process = subprocess.Popen(command, cwd=ROOT, env=environment, text=True, **pipes)
        yield Hub(store, environment, process)
        process.stdin.close()
        process.wait(timeout=60)


@pytest.fixture
def hub(running_hub, make_checkpoint):
    """The Hub with nothing on it but a base, whose id the table of variants knows."""
    store = running_hub.store
    store.repos.clear(), store.faults.clear(), store.requests.clear()
    cache = Path(running_hub.environment["HF_HOME"], "hub")
    for folder in cache.glob("models--*"):
        shutil.rmtree(folder)
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
