"""Flags for the settings of `DivPruneConfig`, one for each entry of the table of settings."""

from argparse import ArgumentParser, Namespace
from collections.abc import Iterable
from typing import Any

from divprune_hf.remote_code.settings import BUDGETS, SETTINGS


def flag(name: str) -> str:
    """The flag of a setting, such as `--num-tokens`."""
    return f"--{name.replace('_', '-')}"


def add_settings(parser: ArgumentParser) -> None:
    """Add a flag for each setting; budgets that exclude each other do so on the command line too."""
    groups: dict[str, Any] = {}
    for budget in BUDGETS:
        groups |= dict.fromkeys(budget, parser.add_mutually_exclusive_group())
    for name, setting in SETTINGS.items():
        group = groups.get(name, parser)
        if setting.choices is not None:
            group.add_argument(flag(name), choices=setting.choices, help=setting.help)
        else:
            group.add_argument(flag(name), type=setting.kind, metavar=setting.metavar, help=setting.help)


def given_settings(options: Namespace, names: Iterable[str] = SETTINGS) -> dict[str, Any]:
    """The settings that were given, by name."""
    given = {name: value for name, value in vars(options).items() if name in names and value is not None}
    return {name: given[name] for name in names if name in given}
