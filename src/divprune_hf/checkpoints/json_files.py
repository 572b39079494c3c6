"""Strict reading of untrusted JSON files: a JSON object, or a `ValueError` that names the file."""

import json
import os
import stat
from pathlib import Path
from typing import Any


LARGEST_JSON = 2**28  # bytes; the largest tokenizer.json is a tenth of it
DEEPEST_JSON = 100  # levels; the deepest config of a LLaVA has five
KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


def regular_file(path: str | Path) -> Path:
    """Return the path of a regular file, links followed; raise a `ValueError` for anything else.

    The check comes before opening: opening a named pipe blocks, and a device has no end.
    """
    path = Path(path)
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}): expected a file.") from None
    if not stat.S_ISREG(mode):
        kind = KINDS.get(stat.S_IFMT(mode), "something else")
        raise ValueError(f"{path} is {kind}, expected a file: put a copy of the file in its place.")
    return path


def exists(path: str | Path) -> bool:
    """Tell whether there is anything at a path, a broken link included."""
    return os.path.lexists(path)


def read_json(path: str | Path) -> dict[str, Any]:
    """Return the JSON object in a file; raise a `ValueError` that names a file without one."""
    if not exists(path):
        raise ValueError(f"{Path(path).parent} has no {Path(path).name}: expected a checkpoint folder.")
    path = regular_file(path)
    size = path.stat().st_size
    if size > LARGEST_JSON:
        raise ValueError(f"{path} has {size} bytes, expected a JSON file of at most {LARGEST_JSON}.")
    return parse_json(path.read_bytes(), path)


def parse_json(text: bytes, source: str | Path) -> dict[str, Any]:
    """Return the JSON object in a text; raise a `ValueError` that names `source` if there is none."""
    try:
        content = json.loads(text.decode("utf-8"), object_pairs_hook=without_duplicates)
        check_depth(content)
    except RecursionError:
        raise ValueError(f"{source} is not valid JSON (it is nested too deeply).") from None
    except ValueError as error:  # also bytes that are no UTF-8, and numbers of too many digits
        raise ValueError(f"{source} is not valid JSON ({error}).") from None
    if not isinstance(content, dict):
        raise ValueError(f"{source} holds a {type(content).__name__}, expected a JSON object.")
    return content


def to_json(content: dict[str, Any]) -> str:
    """Return the text of a JSON file, laid out as transformers does it."""
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object as a dict, and refuse a repeated key: parsers differ in which value they take."""
    content = dict(pairs)
    if len(content) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} stands there twice")
    return content


def check_depth(content: Any) -> None:
    """Raise a `RecursionError` for content deeper than `DEEPEST_JSON`, which recursive readers could not follow."""
    level = [content]
    for _ in range(DEEPEST_JSON):
        level = [
            part
            for parts in level
            if isinstance(parts, (dict, list))
            for part in (parts.values() if isinstance(parts, dict) else parts)
        ]
        if not level:
            return
    raise RecursionError
