"""The direct-import lines of remote code: transformers 4.57 ships only what an entry file itself imports.

The lines are written here. Where they are stale the test fails, and has written them anew: look at them and commit.
"""

import ast
import re
from pathlib import Path

import pytest

import divprune_hf
from divprune_hf.remote_code.selectors import SELECTORS


ROOM = Path(divprune_hf.__file__).parent / "remote_code"
TREES = {
    path.stem: ast.parse(path.read_text(encoding="utf-8")) for path in ROOM.glob("*.py") if path.stem != "__init__"
}
# What transformers reads first of a folder.
ENTRIES = sorted(name for name in TREES if name.split("_")[0] in ("configuration", "modeling", "processing"))
BEGIN = (
    "\n\n# isort: split\n"
    "# transformers 4.57 ships only what this file imports: tests/remote_code/test_direct_imports.py writes\n"
)
LINE = re.compile(r"from \.(\w+) import \w+  # noqa: F401\n")
BLOCK = re.compile(re.escape(BEGIN) + f"(?:{LINE.pattern})*")


def siblings_of(name):
    """The files that a file names in its import statements."""
    return {node.module for node in ast.walk(TREES[name]) if isinstance(node, ast.ImportFrom) and node.level == 1}


def needed_by(entry, used):
    """All files that an entry file needs, directly or through others."""
    # The table of selectors names files that it does not import.
    needed, waiting = set(), used | {selector.function.split(".")[0] for selector in SELECTORS.values()}
    waiting = waiting if entry.startswith("modeling") else used
    while waiting:
        name = waiting.pop()
        needed.add(name)
        waiting = (waiting | siblings_of(name)) - needed
    return needed - {entry}


def first_name(name):
    """The first function or class of a file."""
    return next(node.name for node in TREES[name].body if isinstance(node, (ast.FunctionDef, ast.ClassDef)))


@pytest.mark.parametrize("entry", ENTRIES)
def test_an_entry_file_imports_all_that_it_needs(entry):
    path = ROOM / f"{entry}.py"
    text = path.read_text(encoding="utf-8")
    (block,) = BLOCK.findall(text) and [BLOCK.search(text)[0]]
    used = set(re.findall(r"^from \.(\w+) import", text.replace(block, ""), flags=re.MULTILINE))
    missing = sorted(needed_by(entry, set(used)) - used)
    expected = BEGIN + "".join(f"from .{name} import {first_name(name)}  # noqa: F401\n" for name in missing)
    if block != expected:
        path.write_text(text.replace(block, expected), encoding="utf-8")
    assert block == expected, f"{path.name} has been written anew"
