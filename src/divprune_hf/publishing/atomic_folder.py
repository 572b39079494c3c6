"""A folder that appears whole or not at all, even if the process is killed while making it.

Beside a folder OUT called NAME, a run makes

- `.NAME.divprune-lock`, which it holds locked. If nobody holds the lock, the other two were left by a killed run.
- `.NAME.partial-*`, the coming OUT, or the replaced one. It is of no use after the run.
- `.NAME.previous-*`, the old OUT, whole, between two renames. It exists only where the system cannot exchange folders.
"""

import ctypes
import os
import re
import secrets
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]  # tells that there are no locks


AT_CURRENT_FOLDER = -100  # AT_FDCWD of Linux
EXCHANGE = 2  # RENAME_EXCHANGE of Linux, RENAME_SWAP of macOS

Say = Callable[[str], object]


@contextmanager
def new_folder(out: Path, check: Callable[[], object], say: Say) -> Iterator[Path]:
    """Yield an empty folder to fill; put it in the place of `out` at the end, unless anything fails.

    Args:
        out (`Path`): absolute, links resolved.
        check: raises if `out` must not be replaced. It is called while no other run can make `out`.
        say: called with a line for each leftover of a killed run that is removed or restored.

    Raises:
        ValueError: another run is making `out`.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    with only_run(out) as is_alone:
        restore(out, is_alone, say)
        check()
        remove_leftovers(out, is_alone, say)
        partial = beside(out, "partial")  # named before it is made, so that it is removed whenever this ends
        try:
            partial.mkdir()
            yield partial
            put_in_place(partial, out)
        finally:
            discard(partial)


def restore_killed(out: Path, say: Say) -> None:
    """Put `out` back if a run was killed between two renames; do nothing in all other cases."""
    if leftovers(out, "previous") and is_missing(out):
        with only_run(out) as is_alone:
            restore(out, is_alone, say)


def put_in_place(partial: Path, out: Path) -> None:
    """Put a finished folder in place. The old one is then called `partial`; if anything fails, it is back."""
    if not out.exists():
        partial.rename(out)
        return
    if exchange(partial, out):
        return
    previous = beside(out, "previous")
    try:
        out.rename(previous)
        partial.rename(out)
        previous.rename(partial)
    except BaseException:
        if previous.exists():
            previous.rename(partial if out.exists() else out)
        raise


def exchange(one: Path, other: Path) -> bool:
    """Exchange the names of two folders in one step; return False if the system or the file system cannot."""
    names = os.fsencode(one), os.fsencode(other)
    try:
        library = ctypes.CDLL(None)
        if sys.platform == "darwin":
            return library.renamex_np(*names, ctypes.c_uint(EXCHANGE)) == 0
        return library.renameat2(AT_CURRENT_FOLDER, names[0], AT_CURRENT_FOLDER, names[1], ctypes.c_uint(EXCHANGE)) == 0
    except (AttributeError, OSError, TypeError):  # no such function, no such library
        return False


@contextmanager
def only_run(out: Path) -> Iterator[bool]:
    """Keep other runs away from `out`; yield False where there are no locks, so that other runs cannot be noticed.

    The system drops the lock whenever the process ends. The file of the lock may stay, and the next run takes it.
    """
    path = out.with_name(f".{out.name}.divprune-lock")
    descriptor = locked(path, out)
    try:
        yield descriptor is not None
    finally:
        if descriptor is not None:
            path.unlink(missing_ok=True)
            os.close(descriptor)


def locked(path: Path, out: Path) -> int | None:
    """Return the descriptor of a file that this run alone has locked, or None where there are no locks."""
    while fcntl is not None:
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The run that held the lock may have removed the file just now, and a third one made and locked a new file.
            if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
            os.close(descriptor)
        except BlockingIOError:
            os.close(descriptor)
            raise ValueError(
                f"{out} is being made by another run: wait until it ends, or choose another folder."
            ) from None
        except OSError:  # a file system without locks
            os.close(descriptor)
            path.unlink(missing_ok=True)
            break
    return None


def beside(out: Path, kind: str) -> Path:
    """Return an unused name for a folder of this run."""
    return out.with_name(f".{out.name}.{kind}-{secrets.token_hex(8)}")


def leftovers(out: Path, kind: str = "partial|previous") -> list[Path]:
    """Return the existing folders with names that `beside` makes."""
    if not out.parent.is_dir():
        return []
    ours = re.compile(rf"\.{re.escape(out.name)}\.({kind})-[0-9a-f]{{16}}")
    found = [path for path in out.parent.iterdir() if ours.fullmatch(path.name)]
    return sorted(path for path in found if path.is_dir() and not path.is_symlink())


def is_missing(out: Path) -> bool:
    """Tell whether there is no such folder, or an empty one."""
    return not out.exists() or (out.is_dir() and not any(out.iterdir()))


def restore(out: Path, is_alone: bool, say: Say) -> None:
    """Put back the old `out` that a killed run had set aside, if there is no new one."""
    for previous in leftovers(out, "previous"):
        if is_missing(out) and is_alone:
            previous.rename(out)
            say(f"{out} is back: a run that was killed had set it aside.")
        elif is_missing(out):
            raise ValueError(f"{out} may have been set aside as {previous}: rename that one by hand, or remove it.")


def remove_leftovers(out: Path, is_alone: bool, say: Say) -> None:
    """Remove leftovers of killed runs; only name them where another run may be alive."""
    for folder in leftovers(out):
        if not is_alone:
            say(f"{folder} may be of a run that was killed: if no other run is making {out}, remove it by hand.")
            continue
        say(f"Removing {folder}, which a run that was killed left.")
        partial = beside(out, "partial")
        folder.rename(partial)  # half of an old OUT must never be taken for the whole
        discard(partial)


def discard(folder: Path) -> None:
    """Remove a folder; an interruption is raised after a second attempt."""
    try:
        shutil.rmtree(folder, ignore_errors=True)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
