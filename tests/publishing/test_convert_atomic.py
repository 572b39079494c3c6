"""A variant appears whole or not at all, what it replaces is safe until then, and the base always is."""

import contextlib
import json
import resource
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from divprune_hf import convert_checkpoint
from divprune_hf.publishing import atomic_folder
from tests.helpers.folders import file_hashes, tree


WEIGHTS = 150_000  # bytes, fewer than the tiny base's weights have


@contextlib.contextmanager
def file_size_limit(size):
    """Writing more than `size` bytes to a file fails as it does on a full disk."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


def make_late_file_large(base):
    """The weights still fit under a limit of 300,000 bytes, the notice that is copied after them does not."""
    (base / "NOTICE").write_text("x" * 400_000)
    return 300_000


FAILURES = {"in_the_weights": lambda base: WEIGHTS, "after_the_weights": make_late_file_large}


@pytest.mark.parametrize("prepare", FAILURES.values(), ids=FAILURES)
def test_failed_copy_leaves_nothing(base, tmp_path, prepare):
    limit = prepare(base)
    before = tree(tmp_path)
    with file_size_limit(limit), pytest.raises(OSError, match="File too large"):
        convert_checkpoint(base, tmp_path / "out")
    assert tree(tmp_path) == before


@pytest.mark.parametrize("prepare", FAILURES.values(), ids=FAILURES)
def test_failed_copy_leaves_the_old_variant(base, tmp_path, prepare):
    out = convert_checkpoint(base, tmp_path / "out", {"num_tokens": 3})
    limit = prepare(base)
    before = tree(tmp_path)
    with file_size_limit(limit), pytest.raises(OSError, match="File too large"):
        convert_checkpoint(base, out, {"num_tokens": 5}, overwrite=True)
    assert tree(tmp_path) == before
    convert_checkpoint(base, out, {"num_tokens": 5}, overwrite=True)
    assert tree(tmp_path) != before


@pytest.mark.parametrize("failing", [1, 2, 3], ids=["old_one_aside", "new_one_in_place", "old_one_away"])
@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_failed_swap_restores_the_old_variant(base, tmp_path, monkeypatch, failing, error):
    out = convert_checkpoint(base, tmp_path / "out", {"num_tokens": 3})
    # Where the system exchanges folders in one step there are no renames that could fail.
    monkeypatch.setattr(atomic_folder, "exchange", lambda one, other: False)
    before, rename, calls = tree(tmp_path), Path.rename, []

    def rename_that_fails_once(path, target):
        calls.append(path)
        if len(calls) == failing:
            raise error("no such luck")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", rename_that_fails_once)
    with pytest.raises(error, match="no such luck"):
        convert_checkpoint(base, out, {"num_tokens": 5}, overwrite=True)
    assert len(calls) >= failing
    if failing < 3:
        assert tree(tmp_path) == before
    else:  # the new one is in place, and nothing lies beside it
        assert tree(tmp_path).keys() == before.keys() and tree(tmp_path) != before


def test_failed_swap_into_a_new_place_leaves_nothing(base, tmp_path, monkeypatch):
    before = tree(tmp_path)

    def failing_rename(path, target):
        raise OSError("no such luck")

    monkeypatch.setattr(Path, "rename", failing_rename)
    with pytest.raises(OSError, match="no such luck"):
        convert_checkpoint(base, tmp_path / "out")
    assert tree(tmp_path) == before


def test_base_is_untouched_by_conversion(base, tmp_path):
    before = file_hashes(base)
    convert_checkpoint(base, tmp_path / "out")
    convert_checkpoint(base, tmp_path / "out", {"num_tokens": 5}, overwrite=True, link=True)
    assert file_hashes(base) == before


def test_memory_does_not_grow_with_the_weights(base, tmp_path):
    size = 300_000_000
    content = (base / "model.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    header["weight"] = {"dtype": "F32", "shape": [size // 4], "data_offsets": [len(data), len(data) + size]}
    text = json.dumps(header).encode()
    with (base / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + data)
        file.truncate(8 + len(text) + len(data) + size)  # a hole: takes no room on the disk
    code = (
        "import resource, sys, divprune_hf\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = peak()\n"
        "divprune_hf.convert_checkpoint(sys.argv[1], sys.argv[2])\n"
        "print(peak() - before)\n"
    )
    command = [sys.executable, "-c", code, base, tmp_path / "out"]
    growth = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout) * 1024
    assert (tmp_path / "out" / "model.safetensors").stat().st_size > size
    (tmp_path / "out" / "model.safetensors").unlink()
    assert growth < 100_000_000
