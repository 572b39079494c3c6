"""Single answers of a hostile Hub: what the line of error says, lists, contents, races, lies, names and other hosts."""
# ruff: noqa: F811 (tests name the fixtures that are imported here)

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import divprune_hf
from tests.helpers import hostile_hub as hostile
from tests.helpers.folders import file_hashes
from tests.helpers.hostile_cases import CASES, KINDS
from tests.helpers.hostile_session import (  # noqa: F401 (a fixture)
    ANSWER_BYTES,
    COMMANDS,
    TARGET,
    VERIFIED,
    arguments_of,
    assert_nothing_happened,
    escapes_in,
    hub,
    state,
)
from tests.helpers.hub_parts import BASE_ID, WRITER, assert_holds, contents, without_card


WORDS = {
    "page_200": "was answered with 200 and text/html; charset=utf-8 that begins with '<!DOCTYPE html>",
    "nothing_200": "was answered with 200 and application/json that begins with ''",
    "list": "begins with '[1, \"x\", null]', expected a Hub's answer",
    "silent": "had no complete answer within",
    "dripping_body": "had no complete answer within",
    "endless_body": f"was answered with more than {ANSWER_BYTES} bytes",
    "429_in_years": "asks to wait 1000000000 s, more than 60 s",
    "page_503": "Run this again later",
    "escapes": r"\x1b[31m\x1b]0;title\x07 \u202eevil\u202c Bearer ***",
}


@pytest.mark.parametrize(("kind", "words"), WORDS.items(), ids=WORDS)
def test_the_line_says_what_came_and_from_where(hub, lean, tmp_path, kind, words):
    hub.turn(KINDS[kind], "GET /api/models/")
    error = hub.run(*arguments_of("verify", lean, tmp_path)).error
    assert words in error and f"/api/models/{VERIFIED}" in error
    assert not any(unclear in error for unclear in ("Expecting value", "argument after **", "mozilla"))


BAD_ENTRIES = {
    "control_characters": {"path": "a\x1b[2J.py"},
    "line_break": {"path": "a\nb.py"},
    "bidi": {"path": "a\u202egnp.py"},
    "above": {"path": "../../a.py"},
    "above_within": {"path": "more/../../a.py"},
    "absolute": {"path": "/etc/passwd"},
    "backslash": {"path": "a\\b.py"},
    "no_name": {"path": ""},
    "number_as_name": {"path": 7},
    "list_as_name": {"path": ["a"]},
    "negative_size": {"size": -1},
    "text_as_size": {"size": "1"},
    "no_size": {"size": None},
    "no_hash": {"oid": None},
    "wrong_hash": {"oid": "main"},
    "text_as_lfs": {"lfs": "yes"},
    "wrong_lfs_hash": {"lfs": {"oid": "x", "size": 1, "pointerSize": 1}},
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("entry", BAD_ENTRIES.values(), ids=BAD_ENTRIES)
def test_a_list_of_files_that_no_repo_has_is_refused(hub, lean, tmp_path, entry, command):
    (tmp_path / "room").mkdir()
    hub.store.add(TARGET, lean, private=True)
    before = state(hub.store)
    hub.turn(hostile.listing(entry), "GET .*/tree/")
    error = hub.run(*arguments_of(command, lean, tmp_path)).error
    assert "does not answer as it should" in error or "has no config.json" in error
    assert state(hub.store) == before and not list((tmp_path / "room").iterdir())


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("pages", "reason"),
    [(hostile.endless_pages, "names a next one, more than 20 times"), (hostile.endless_files, "more than 10000 files")],
    ids=["empty_pages", "full_pages"],
)
def test_lists_without_end_are_refused(hub, lean, tmp_path, command, pages, reason):
    (tmp_path / "room").mkdir()
    hub.store.add(TARGET, lean, private=True)
    hub.turn(pages, "GET .*/tree/")
    assert reason in hub.run(*arguments_of(command, lean, tmp_path)).error
    assert hub.store.page < 30 and not list((tmp_path / "room").iterdir())


CONTENTS = {
    "one_byte": lambda content: content[:-1] + bytes([content[-1] ^ 1]),
    "shorter": lambda content: content[:-1],
    "longer": lambda content: content + b" ",
    "nothing": lambda content: b"",
}


@pytest.mark.parametrize("at", ["config.json", "model.safetensors", "tokenizer.json"])
@pytest.mark.parametrize("change", CONTENTS.values(), ids=CONTENTS)
def test_a_file_that_is_not_what_the_hub_lists_is_refused_and_fetched_anew(hub, lean, tmp_path, change, at):
    (tmp_path / "room").mkdir()
    hub.turn(hostile.other_content(change), f"GET .*/resolve/.*/{at}")
    out = tmp_path / "room" / "out"
    error = hub.run("convert", BASE_ID, out, "--num-tokens", "5").error
    assert "another size or hash" in error or "Consistency check failed" in error
    assert not list((tmp_path / "room").iterdir())
    hub.be_honest()
    hub.succeed("convert", BASE_ID, out, "--num-tokens", "5")  # the wrong content was not kept
    assert without_card(file_hashes(out)) == without_card(file_hashes(lean))


@pytest.mark.parametrize("status", [409, 412])
@pytest.mark.parametrize("at", ["POST /api/repos/create", "POST .*/commit/"], ids=["create", "commit"])
def test_a_lost_race_says_to_run_again(hub, lean, tmp_path, status, at):
    before = state(hub.store)
    hub.turn(hostile.conflict(status), at)
    error = hub.run(*arguments_of("push", lean, tmp_path)).error
    assert f"{TARGET} has changed meanwhile ({status})" in error and "run this again" in error
    assert_nothing_happened(hub, before, tmp_path)
    hub.be_honest()
    hub.succeed(*arguments_of("push", lean, tmp_path))
    assert_holds(hub.store.repos[TARGET], lean)


@pytest.mark.parametrize(
    ("hostility", "at", "reason"),
    [
        (hostile.ignoring, "POST .*/preupload/", ""),
        (hostile.values({}), "POST .*/tag/", "is not at commit"),
        (hostile.values({}), "PUT .*/settings", "is still private"),
        (hostile.committed("f" * 40), "POST .*/commit/", "no such revision"),
        (hostile.committed(["x"]), "POST .*/commit/", "40 hexadecimal digits"),
    ],
    ids=["files_ignored", "tag_not_set", "not_made_public", "no_commit", "commit_no_hash"],
)
def test_what_the_hub_only_says_it_did_is_noticed(hub, lean, tmp_path, hostility, at, reason):
    hub.turn(hostility, at)
    assert reason in hub.run(*arguments_of("push", lean, tmp_path)).error
    assert hub.store.repos[TARGET].private
    hub.be_honest()
    hub.succeed(*arguments_of("push", lean, tmp_path))
    assert_holds(hub.store.repos[TARGET], lean, "v0.1.0")
    assert not hub.store.repos[TARGET].private


@pytest.mark.parametrize(
    ("command", "hostility", "at"),
    [
        ("verify", hostile.link_elsewhere, "GET .*/tree/"),
        ("convert", hostile.link_elsewhere, "GET .*/tree/"),
        ("push", hostile.verified_elsewhere, "POST .*/objects/batch"),
        ("verify", hostile.elsewhere, "GET .*/resolve/"),
        ("push", hostile.elsewhere, "POST .*/commit/"),
    ],
    ids=["verify_next_page", "convert_next_page", "push_lfs_verify", "verify_file", "push_commit"],
)
def test_no_token_goes_to_another_host_that_the_hub_names(hub, lean, tmp_path, command, hostility, at):
    hub.turn(hostility, at)
    hub.run(*arguments_of(command, lean, tmp_path))
    assert hub.seen_elsewhere, "nobody came to the other host"
    assert not any("authorization" in map(str.lower, headers) for headers in hub.seen_elsewhere)
    assert WRITER not in str(hub.seen_elsewhere)


def test_names_with_glob_characters_are_names(hub, lean, tmp_path, make_checkpoint):
    names = ["a[b].py", "*.py", "?.py", "[!x].py"]
    hub.store.add(VERIFIED, lean, {name: b"open('ran', 'w')" for name in names})
    error = hub.run("verify", VERIFIED).error
    assert all(f"{name} is not one of ours" in error for name in names) and not os.path.exists("ran")
    hub.store.add(BASE_ID, make_checkpoint().base, {"LICENSE[1]": b"terms"})
    hub.succeed("convert", BASE_ID, tmp_path / "out", "--num-tokens", "5")
    assert (tmp_path / "out" / "LICENSE[1]").read_bytes() == b"terms"


def test_names_of_local_files_do_not_steer_the_terminal(hub, lean, tmp_path):
    variant = shutil.copytree(lean, tmp_path / "lean")
    (variant / f"notes{hostile.ESCAPES.replace('/', '')}\n.txt").write_text("mine")
    assert r"notes\x1b[31m\x1b]0;title\x07 \u202eevil\u202c\n.txt" in hub.succeed("push", variant, TARGET).out
    (variant / "evil\x1b[2J\n.py").write_text("open('ran', 'w')")
    for arguments in (["push", variant, TARGET, "--tag", "v2"], ["verify", variant]):
        assert r"evil\x1b[2J\n.py is not one of ours" in hub.run(*arguments).error


def test_the_honest_hub_is_content_with_all_of_it(hub, lean, tmp_path):
    (tmp_path / "room").mkdir()
    for command in ("verify", "convert", "push"):
        hub.succeed(*arguments_of(command, lean, tmp_path))
    assert not hub.store.repos[TARGET].private and contents(hub.store.repos[TARGET], "v0.1.0")
    del hub.store.repos[TARGET]
    hub.succeed(*arguments_of("publish", lean, tmp_path))
    assert_holds(hub.store.repos[TARGET], lean)


def test_a_command_of_its_own_process_shows_no_token_either(hub, lean):
    """The console command as it is installed, with all limits as they are, its whole output in one pipe."""
    hub.turn(hostile.escapes, "GET .*/tree/")
    environment = {**hub.environment, "PYTHONPATH": str(Path(divprune_hf.__file__).parents[1])}
    command = [sys.executable, "-m", "divprune_hf.cli", "verify", VERIFIED]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert result.returncode == 2 and result.stderr.splitlines()[-1].startswith("divprune-hf: error: The Hub answered")
    assert "Request " in result.stderr and WRITER not in result.stdout + result.stderr
    assert not escapes_in(result.stdout + result.stderr)


def test_cases_are_counted():
    """docs/security.md says how many cases of a hostile Hub are tried."""
    tried = len(CASES) + len(COMMANDS) * (len(BAD_ENTRIES) + 2) + len(WORDS) + 3 * len(CONTENTS) + 4 + 5 + 5
    text = (Path(__file__).parents[2] / "docs" / "security.md").read_text(encoding="utf-8")
    assert f"{tried} cases" in text, tried
