"""Looking at checkpoint folders, and changing them."""

import hashlib
import json
import re

import pytest

from divprune_hf import convert_checkpoint


def file_hashes(folder):
    """The SHA-256 of every file below a folder, by its relative path."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def tree(folder):
    """Everything below a folder, by its relative path: where a link points to, a file's hash, or None for a folder."""
    entries = {
        path.relative_to(folder).as_posix(): str(path.readlink()) if path.is_symlink() else None
        for path in sorted(folder.rglob("*"))
    }
    return {**entries, **file_hashes(folder)}


def load_json(path):
    return json.loads(path.read_text(encoding="utf-8"))


def edit_json(path, remove=(), **changes):
    """Set and remove keys of the JSON object in a file."""
    content = {name: value for name, value in load_json(path).items() if name not in remove}
    path.write_text(json.dumps({**content, **changes}), encoding="utf-8")


def assert_refused(tmp_path, base, out, reason, **arguments):
    """A `ValueError` gives the reason, and nothing below `tmp_path` has changed: no OUT, no temporary folder."""
    before = tree(tmp_path)
    with pytest.raises(ValueError, match=re.escape(reason)):
        convert_checkpoint(base, out, **arguments)
    assert tree(tmp_path) == before
