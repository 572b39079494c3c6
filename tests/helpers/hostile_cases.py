"""How a Hub can answer badly, and at which request of a command it does."""

from tests.helpers import hostile_hub as hostile
from tests.helpers.hostile_session import COMMANDS


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
