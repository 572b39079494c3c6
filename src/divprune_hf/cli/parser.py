"""The arguments of `divprune-hf`. Nothing here imports torch or transformers: help and errors of usage come at once."""

import argparse
from typing import Any, NoReturn

from divprune_hf.cli import (
    benchmark_commands,
    evaluation_commands,
    inference_commands,
    publishing_commands,
    serving_commands,
)
from divprune_hf.version import __version__


class OneLineParser(argparse.ArgumentParser):
    """A parser whose errors are one line too.

    Attributes:
        passes_on: what follows `--` is kept as it is, as `passed_on`: arguments of another command.
        otherwise: the sub-command that is meant where the first argument names none.
    """

    passes_on = False
    otherwise: str | None = None

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse as the parent does, up to `--` where the rest is passed on."""
        if self.otherwise is not None and args and args[0] not in (*self.subcommands(), "-h", "--help"):
            args = [self.otherwise, *args]
        if not self.passes_on:
            return super().parse_known_args(args, namespace)
        end = args.index("--") if "--" in args else len(args)
        options, unknown = super().parse_known_args(args[:end], namespace)
        options.passed_on = args[end + 1 :]
        return options, unknown

    def subcommands(self) -> list[str]:
        """Return the names of the sub-commands."""
        return [name for action in self._actions if isinstance(action.choices, dict) for name in action.choices]

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
    groups = (publishing_commands, inference_commands, serving_commands, evaluation_commands, benchmark_commands)
    for group in groups:
        group.add_commands(commands)
    return parser
