"""Standard output and error, whatever they lead to: a reader that is gone, a full disk, an encoding of few letters."""

import codecs
import os
import select
import sys
from typing import TextIO


SIGPIPE = 13  # what ends other tools whose reader is gone; Python ignores it and raises BrokenPipeError
POLL = getattr(select, "poll", None)  # not on Windows


def any_letter(error: UnicodeError) -> tuple[str | bytes, int]:
    """An error handler of encoders: bytes of file names as they are, other letters that are missing as \\uXXXX."""
    try:
        return codecs.lookup_error("surrogateescape")(error)
    except UnicodeError:
        return codecs.lookup_error("backslashreplace")(error)


codecs.register_error("divprune_hf.any_letter", any_letter)


def streams() -> list[TextIO]:
    """Standard output and error, as far as they are open."""
    return [stream for stream in (sys.stdout, sys.stderr) if stream is not None]


def allow_any_letter() -> None:
    """Let a letter that the encoding of a stream lacks be no error."""
    for stream in streams():
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="divprune_hf.any_letter")


def flush() -> None:
    """Write out what waits, here where an error can be said."""
    for stream in streams():
        stream.flush()


def reader_is_gone(error: BaseException) -> bool:
    """Tell whether an error is that of `divprune-hf ... | head -1`, and not that of a connection to a server."""
    return isinstance(error, BrokenPipeError) and (POLL is None or any(map(is_broken, streams())))


def is_broken(stream: TextIO) -> bool:
    """Tell whether nobody reads a pipe any more."""
    try:
        poll = select.poll()
        poll.register(stream.fileno(), 0)
    except (OSError, ValueError):  # not a file of the system's
        return False
    return any(event & select.POLLERR for _, event in poll.poll(0))


def tell(line: str) -> None:
    """Print a line on standard error, if it can be."""
    try:
        print(line, file=sys.stderr, flush=True)
    except OSError:
        return


def drop_unwritable() -> None:
    """Send what cannot be written nowhere: the interpreter would try again at its end, and complain."""
    for stream in streams():
        try:
            stream.flush()
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
