"""Looking at checkpoint folders, and changing them."""

import hashlib
import json


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
