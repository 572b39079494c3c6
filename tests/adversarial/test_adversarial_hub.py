"""Commands that speak to a hostile Hub end in time, with one line of error, and leave nothing half done anywhere.

The client process runs with the libraries' most talkative settings; neither they nor a command ever show the token.
"""
# ruff: noqa: F811 (tests name the fixtures that are imported here)

import time

import hostile_hub as hostile
import pytest

from tests.helpers.hostile_session import (  # noqa: F401 (fixtures)
    COMMANDS,
    SECONDS,
    TARGET,
    VERIFIED,
    arguments_of,
    assert_nothing_happened,
    hostile_session,
    hub,
    lean,
    state,
)
from tests.helpers.hub_parts import BASE_ID, WRITER


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
# Files are read as streams, which end in another way than answers that are read whole.
STREAMED = [stage for stage in STAGES if stage[0] != "publish" and stage[1] in ("file", "weights")]
CASES += [(kind, *stage) for stage in STREAMED for kind in ("dripping_body", "endless_body", "bomb", "garbage")]


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
