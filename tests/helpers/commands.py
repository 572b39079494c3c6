"""The console command in this process: it has everything imported already, which a new process takes seconds for."""

import io
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass

from divprune_hf.cli import main


@dataclass(frozen=True)
class Finished:
    """A command's exit code and what it printed."""

    returncode: int
    stdout: str
    stderr: str


def run_command(*arguments: object) -> Finished:
    """Run `divprune-hf` with arguments, each as its text; errors of usage are returned too."""
    with redirect_stdout(io.StringIO()) as printed, redirect_stderr(io.StringIO()) as errors:
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as stopped:  # how argparse ends
            code = stopped.code
    return Finished(code, printed.getvalue(), errors.getvalue())
