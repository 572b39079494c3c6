"""Files that are whole at any time: written beside their place, then put there."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path


def write_whole(path: str | Path, text: str) -> None:
    """Write a text file as UTF-8, or leave what was there if anything fails."""
    save_whole(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def check_new_folder(folder: Path) -> None:
    """Raise a `ValueError` unless a folder is free to be made: not there, or an empty one."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} is not empty, expected a new folder.")


def save_whole(path: str | Path, save: Callable[[Path], object]) -> None:
    """Let `save` write a partial file beside `path`, then put it in the place of `path`.

    The partial file is removed if `save` fails; the next call replaces one that a killed process left. A link is
    followed. A device or a pipe, such as /dev/stdout, cannot be replaced: `save` writes into it.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        save(path)
        return
    path = path.resolve()
    partial = partial_of(path)
    try:
        save(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def partial_of(path: Path) -> Path:
    """Return the partial file of a path: its name is short, whatever the length of the other, and always the same."""
    return path.with_name(f".divprune-{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]}.partial")


def check_writable(path: str | Path) -> None:
    """Raise a `ValueError` for a file that `write_whole` cannot write, before its contents are made."""
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path} cannot be written: it is a folder, expected a file.")
    if not path.parent.is_dir():
        raise ValueError(f"{path} cannot be written: its folder does not exist.")
