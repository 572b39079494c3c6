"""Python code in a process of its own."""

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path


def run_python(
    arguments: Sequence[str], task: str, folder: str | Path, environment: Mapping[str, str] | None = None
) -> str:
    """Run the interpreter of this process once more, and return what it prints.

    Args:
        arguments: what follows `python` on the command line.
        task: the subject of an error, such as "the demo's model process".
        folder: the working folder of the process.
        environment: its environment variables; by default those of this process.

    Raises:
        OSError: the process failed; the message ends with the last line that it wrote to stderr.
    """
    result = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        env=environment,
        cwd=folder,
    )
    if result.returncode != 0:
        (last,) = result.stderr.strip().splitlines()[-1:] or [f"exit code {result.returncode}"]
        raise OSError(f"{task} failed: {last}")
    return result.stdout
