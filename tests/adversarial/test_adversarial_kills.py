"""`convert` killed at random moments: OUT is whole or as it was, the base is untouched, and the next run cleans up."""

import fcntl
import json
import os
import random
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from divprune_hf import convert_checkpoint
from divprune_hf.publishing import atomic_folder


ROOT = Path(__file__).parents[2]
NUM_KILLS = 110  # of each mode, before the run is done
CODES = {"SIGKILL": {-9, 0}, "SIGTERM": {143, 0}, "SIGINT": {130, 0}}


def killed_runs(mode, folder):
    """A report of each run of a script that kills them; see `tests/helpers/killed_runs.py`."""
    seed = random.SystemRandom().randrange(2**32)
    command = [sys.executable, "-m", "tests.helpers.killed_runs", str(folder), mode, str(seed), str(NUM_KILLS)]
    environment = {**os.environ, "TQDM_DISABLE": "1", "HF_HUB_OFFLINE": "1"}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    print(f"{mode}: seed {seed}")
    assert result.returncode == 0, result.stderr[-2000:]
    return [json.loads(line) for line in result.stdout.splitlines()]


def failures(reports, holds):
    return [report for report in reports if not holds(report)]


def enough_runs_were_killed(mode, reports):
    ended = Counter((report["signal"], report["code"] != 0) for report in reports)
    print(ended)
    assert sum(report["code"] != 0 for report in reports) >= NUM_KILLS
    assert all(ended[name, True] >= 10 for name in CODES)
    assert {report["out"] for report in reports if report["code"]} >= {"none", 3}


def the_base_is_untouched(mode, reports):
    assert not failures(reports, lambda report: report["base_untouched"])


def out_is_whole_or_as_it_was(mode, reports):
    """It is never gone, but between two renames where there is no exchange: then the old one lies beside it, whole."""

    def holds(report):
        as_it_was = "none" if report["old"] is None else report["old"]
        between = mode == "renames" and report["old"] and report["signal"] == "SIGKILL" and report["set_aside"]
        return report["out"] in (5, as_it_was) or (between and report["out"] == "none")

    assert not failures(reports, holds)
    if mode == "renames":
        assert any(report["set_aside"] for report in reports)


def the_next_run_finds_the_old_one_or_the_new_one(mode, reports):
    """One that must not replace anything: it puts back what was set aside, and is refused."""

    def holds(report):
        expected = report["old"] if report["out"] == "none" and report["old"] else report["out"]
        if expected == "none":
            return (report["second_code"], report["second_out"]) == (0, 5)
        return (report["second_code"], report["second_out"]) == (2, expected)

    assert not failures(reports, holds)


def the_next_run_names_and_removes_what_is_left(mode, reports):
    def holds(report):
        # The lock is taken over without a word. What was set aside and is put back is named as OUT.
        left = [name for name in report["beside"] if not name.endswith("-lock")]
        returned = report["set_aside"] if report["out"] == "none" else []
        named = set(report["named"]) >= set(left) - set(returned)
        return named and not report["beside_in_the_end"] and report["third_code"] == 0 and report["whole_in_the_end"]

    assert not failures(reports, holds)
    assert any(report["beside"] for report in reports)


def sigterm_and_interrupts_clean_up(mode, reports):
    def holds(report):
        left = [name for name in report["beside"] if not name.endswith("-lock")]
        return report["code"] in CODES[report["signal"]] and (report["signal"] == "SIGKILL" or not left)

    assert not failures(reports, holds)


@pytest.mark.parametrize("mode", ["exchange", "renames"])
def test_runs_that_are_killed_leave_everything_whole(mode, make_checkpoint, tmp_path):
    """What a system does that exchanges folders, and what one does that cannot.

    One test a mode: workers that shared several would each kill runs of their own.
    """
    shutil.copytree(make_checkpoint().base, tmp_path / "base")
    reports = killed_runs(mode, tmp_path)
    enough_runs_were_killed(mode, reports)
    the_base_is_untouched(mode, reports)
    out_is_whole_or_as_it_was(mode, reports)
    the_next_run_finds_the_old_one_or_the_new_one(mode, reports)
    the_next_run_names_and_removes_what_is_left(mode, reports)
    sigterm_and_interrupts_clean_up(mode, reports)


def old_and_leftovers(base, folder):
    """A variant, and folders as killed runs leave them."""
    out = convert_checkpoint(base, folder / "out", {"num_tokens": 3})
    left = [atomic_folder.beside(out, kind) for kind in ("partial", "previous")]
    for path in left:
        path.mkdir()
        (path / "config.json").write_text("{}")
    return out, left


def test_what_a_living_run_makes_is_left_alone(make_checkpoint, tmp_path):
    out, left = old_and_leftovers(make_checkpoint().base, tmp_path)
    with (tmp_path / ".out.divprune-lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match="is being made by another run"):
            convert_checkpoint(make_checkpoint().base, out, {"num_tokens": 5}, overwrite=True)
        assert all(path.is_dir() for path in left)
    said = []
    convert_checkpoint(make_checkpoint().base, out, {"num_tokens": 5}, overwrite=True, say=said.append)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert all(any(str(path) in line for line in said) for path in left)


def test_where_there_are_no_locks_what_is_left_is_named_and_stays(make_checkpoint, tmp_path, monkeypatch):
    out, left = old_and_leftovers(make_checkpoint().base, tmp_path)
    monkeypatch.setattr(atomic_folder, "fcntl", None)
    said = []
    convert_checkpoint(make_checkpoint().base, out, {"num_tokens": 5}, overwrite=True, say=said.append)
    assert all(path.is_dir() for path in left) and len(said) == 2
    shutil.rmtree(out)
    with pytest.raises(ValueError, match="may have been set aside as"):
        convert_checkpoint(make_checkpoint().base, out, {"num_tokens": 5})
    assert all(path.is_dir() for path in left) and not out.exists()


FOREIGN = [
    ".out.partial-backup",
    ".out.previous-20240101",
    ".out.partial-0123456789abcdeg",
    ".out.partial-0123456789abcdef0",
    ".outer.partial-0123456789abcdef",
    "out.partial-0123456789abcdef",
    ".out.older-0123456789abcdef",
]


@pytest.mark.parametrize("name", FOREIGN)
def test_folders_of_others_are_left_alone(make_checkpoint, tmp_path, name):
    (tmp_path / name).mkdir()
    (tmp_path / name / "notes.txt").write_text("mine")
    convert_checkpoint(make_checkpoint().base, tmp_path / "out")
    convert_checkpoint(make_checkpoint().base, tmp_path / "out", overwrite=True)
    assert (tmp_path / name / "notes.txt").read_text() == "mine"


def test_a_link_with_the_name_of_a_leftover_is_left_alone(make_checkpoint, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    (tmp_path / ".out.partial-0123456789abcdef").symlink_to(tmp_path / "mine")
    convert_checkpoint(make_checkpoint().base, tmp_path / "out")
    assert (tmp_path / "mine" / "notes.txt").read_text() == "mine"


def test_what_appears_meanwhile_is_not_replaced_without_overwrite(make_checkpoint, tmp_path, monkeypatch):
    """Another run is done between the first look at OUT and the lock."""
    from divprune_hf.publishing import convert

    texts = convert.variant_texts

    def slow(*arguments):
        (tmp_path / "out").mkdir(exist_ok=True)
        (tmp_path / "out" / "notes.txt").write_text("mine")
        return texts(*arguments)

    monkeypatch.setattr(convert, "variant_texts", slow)
    with pytest.raises(ValueError, match="is not empty"):
        convert_checkpoint(make_checkpoint().base, tmp_path / "out")
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "notes.txt"]
