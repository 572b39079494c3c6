# SPDX-License-Identifier: Apache-2.0
"""Arguments of a processor's call: stock processors ignore what they do not know; here a name without effect raises."""

import functools
import inspect
from difflib import get_close_matches
from typing import Any

from .settings import PER_CALL, SETTINGS, VIDEO_BUDGET
from .transformers_surface import HAS_IMAGE_HOOK


# The parts of a processor, by the name of the dict of arguments that each gets.
PARTS = {"text_kwargs": "tokenizer", "images_kwargs": "image_processor", "videos_kwargs": "video_processor"}
INPUTS = ("images", "text", "videos", "audio")


def check_call(processor: Any, arguments: dict[str, Any]) -> None:
    """Raise a `ValueError` for an argument that has no effect, by itself or in a dict such as `images_kwargs`.

    Args:
        processor: a pruned model's, whose call this is.
        arguments: the keyword arguments of the call.
    """
    parts = tuple((name, type(getattr(processor, part, None))) for name, part in PARTS.items())
    known = known_arguments(processor.valid_processor_kwargs, parts)
    for name, value in arguments.items():
        if name in known and name not in INPUTS and isinstance(value, dict):
            for inner, inner_value in value.items():
                check_argument(inner, inner_value, known[name], processor.takes_videos)
        elif name not in known:
            check_argument(name, value, known["common_kwargs"], processor.takes_videos)


def take_budget(arguments: dict[str, Any], scope: str, names: tuple[str, ...]) -> dict[str, Any]:
    """Take a budget out of the arguments of a call, by itself or in a dict of them, and return it.

    Args:
        arguments: the keyword arguments; the budget is removed, and the dict in it is replaced by one without it.
        scope: the key of the dict, such as `images_kwargs`.
        names: what the settings of the budget are called.
    """
    nested = dict(arguments.pop(scope, None) or {})
    budget = {name: given.pop(name) for given in (nested, arguments) for name in names if name in given}
    if nested:
        arguments[scope] = nested
    return budget


@functools.cache
def known_arguments(kwargs_class: Any, parts: tuple[tuple[str, type], ...]) -> dict[str, frozenset[str]]:
    """Return the names that each dict of arguments may hold; those of `common_kwargs` may also stand by themselves.

    The inputs of a call have an empty entry each.
    """
    known = {name: set(getattr(kind, "__annotations__", ())) for name, kind in kwargs_class.__annotations__.items()}
    by_itself = set().union(*known.values())
    for name, part in parts:
        of_part = set(getattr(getattr(part, "valid_kwargs", None), "__annotations__", ()))
        if HAS_IMAGE_HOOK:  # 4.57 leaves these out where they stand by themselves
            by_itself |= of_part
        preprocess = getattr(part, "preprocess", None)
        known[name] |= of_part | set(inspect.signature(preprocess).parameters if preprocess else ())
    known["common_kwargs"] = known.get("common_kwargs", set()) | by_itself
    return {**dict.fromkeys(INPUTS, frozenset()), **{name: frozenset(names) for name, names in known.items()}}


def check_argument(name: str, value: Any, known: frozenset[str], takes_videos: bool) -> None:
    """Raise a `ValueError` unless an argument is a budget that the model has, or a name that its processor knows."""
    budgets = [budget for budget in PER_CALL if takes_videos or budget not in VIDEO_BUDGET]
    if name in budgets or (name in known and name not in SETTINGS):
        return
    if name in PER_CALL:
        raise ValueError(f"Got {name}={value!r} for a model that takes no videos, expected one of {budgets}.")
    if name in SETTINGS or name == "divprune_config":
        raise ValueError(
            f"Got {name}={value!r} in a call of the processor, which takes only the budgets {budgets}. Give other "
            "settings while loading: from_pretrained(..., divprune_config={...}), to the model and the processor alike."
        )
    close = get_close_matches(name, [*budgets, *sorted(known)], n=1)
    hint = f" Did you mean {close[0]}?" if close else ""
    raise ValueError(
        f"Got {name}={value!r}, which nothing in this processor takes.{hint} Its budgets per call are {budgets}."
    )
