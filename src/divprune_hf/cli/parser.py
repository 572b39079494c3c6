"""The arguments of `divprune-hf`. Nothing here imports torch or transformers: help and errors of usage come at once."""

import argparse
from typing import Any, NoReturn

from divprune_hf.cli import benchmark_commands, evaluation_commands, inference_commands, publishing_commands
from divprune_hf.version import __version__


class OneLineParser(argparse.ArgumentParser):
    """A parser whose errors are one line too."""

    def error(self, message: str) -> NoReturn:
        """Exit with code 2 and one line on stderr."""
        self.exit(2, f"divprune-hf: error: {message} (see {self.prog} --help)\n")


def build_parser() -> OneLineParser:
    """Return the parser of the command; `run` of what it parses takes the parsed options and does the work."""
    parser = OneLineParser(
        prog="divprune-hf", description="LLaVA models that answer from a tenth of their visual tokens."
    )
    parser.add_argument("--version", action="version", version=f"divprune-hf {__version__}")
    commands: Any = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=OneLineParser)
    for group in (publishing_commands, inference_commands, evaluation_commands, benchmark_commands):
        group.add_commands(commands)
    return parser
