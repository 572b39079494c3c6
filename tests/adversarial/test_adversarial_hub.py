"""Commands that speak to a hostile Hub end in time, with one line of error, and leave nothing half done anywhere.

The client process runs with the libraries' most talkative settings; neither they nor a command ever show the token.
"""
# ruff: noqa: F811 (tests name the fixtures that are imported here)

import time

import pytest

from tests.helpers.hostile_cases import CASES, KINDS
from tests.helpers.hostile_session import (  # noqa: F401 (a fixture)
    COMMANDS,
    SECONDS,
    TARGET,
    VERIFIED,
    arguments_of,
    assert_nothing_happened,
    hub,
    state,
)
from tests.helpers.hub_parts import BASE_ID, WRITER


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
