"""The command that serves a model: serve."""

from argparse import Namespace
from typing import Any

from divprune_hf.cli.settings_flags import add_settings, given_settings


def add_commands(commands: Any) -> None:
    """Add it to the sub-commands of a parser."""
    serve = commands.add_parser(
        "serve",
        help="serve a variant with `transformers serve`, an OpenAI compatible server",
        description="Serve a variant with `transformers serve`. What follows -- is an argument of that command. Needs "
        "the extra `serve` and transformers 5.10 or later.",
        usage="divprune-hf serve [-h] [SETTINGS] MODEL [-- ARGUMENTS]",
    )
    serve.passes_on = True
    serve.add_argument(
        "model", metavar="MODEL", help="a variant: a folder, or the id of a Hub repo, such as ORG/NAME@REV"
    )
    add_settings(serve)
    serve.set_defaults(run=run_serve)


def run_serve(options: Namespace) -> None:
    """Serve a model until the server ends."""
    from divprune_hf.engines.transformers_serve import serve

    serve(options.model, given_settings(options), options.passed_on)
