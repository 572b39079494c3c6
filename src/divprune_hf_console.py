"""Start of the command `divprune-hf`: signals and the encoding are set before anything heavy is imported.

It is a module beside the package, because importing `divprune_hf` imports torch and transformers, which takes seconds.
"""

import os
import signal
import sys
from collections.abc import Callable
from types import FrameType


class Stopped(KeyboardInterrupt):
    """SIGINT (^C) or SIGTERM: what a command has begun is cleaned up on the way out."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


# The first signal of those that came: what catches the exception that it raises must not hide that the user wants out.
came: list[int] = []


def main() -> int:
    """Run the command; return its exit code, 128 and the number of a signal (130 for ^C, 143 for SIGTERM) included."""
    on_signals(leave)
    start_again_in_utf8()
    from divprune_hf.cli import main as run_command

    on_signals(stop)
    try:
        code = run_command()
    except Stopped as stopped:  # between the lines above and below
        code = 128 + stopped.number
    except SystemExit:  # a server ends so, also after a signal
        if not came:
            raise
        code = 128 + came[0]
    on_signals(leave)  # nothing is under way: the end of the interpreter need not be waited for
    return 128 + came[0] if came else code


def on_signals(handler: Callable[[int, FrameType | None], None]) -> None:
    """Handle SIGINT and SIGTERM; one that was ignored when the process began, as under nohup, stays so."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, handler)


def leave(number: int, frame: FrameType | None) -> None:
    """End at once: there is nothing to clean up, and a library may take an exception for a failed import."""
    os._exit(128 + number)


def stop(number: int, frame: FrameType | None) -> None:
    """Raise an exception that no handler of errors catches."""
    came.append(number)
    raise Stopped(number)


def start_again_in_utf8() -> None:
    """Restart in Python's UTF-8 mode where names would be ASCII: under the locale C with that mode switched off.

    There names beyond ASCII can be opened by Python alone, and not by the libraries that read tokenizers and weights.
    """
    if os.name == "posix" and sys.getfilesystemencoding() == "ascii" and not sys.flags.utf8_mode:
        environment = {**os.environ, "PYTHONUTF8": "1"}  # for the processes that the command starts
        os.execve(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]], environment)


if __name__ == "__main__":
    sys.exit(main())
