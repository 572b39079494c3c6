"""The command line of the scripts that make the tables of a page."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from divprune_hf.common.whole_file import write_whole


def update(page: Path, rendered: Callable[[str], str], script: str, description: str) -> None:
    """Make the tables of a page anew; with `--check` change nothing, and fail if one is out of date.

    Args:
        page: the file in docs/.
        rendered: returns the text of a page with its tables made anew.
        script: the name of the script, for the message.
        description: what it does, for `--help`.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--check", action="store_true", help="change nothing, and fail if a table is out of date")
    options = parser.parse_args()
    text = page.read_text(encoding="utf-8")
    if options.check:
        sys.exit(0 if rendered(text) == text else f"docs/{page.name} is out of date: run scripts/{script}.py")
    write_whole(page, rendered(text))
