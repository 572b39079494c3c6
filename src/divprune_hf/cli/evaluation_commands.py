"""The commands that evaluate."""

from typing import Any


def add_commands(commands: Any) -> None:
    """Add them to the sub-commands of a parser."""
