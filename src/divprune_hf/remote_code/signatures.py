# SPDX-License-Identifier: Apache-2.0
"""Overrides that take what the method of their stock class takes, whatever that is in this release.

`generate`, its check of unused arguments and `Trainer` read signatures, and stock code calls by position or by name.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any


def stock_base(cls: type) -> type | None:
    """The class of transformers that `cls` is made from, or None for a class that is made from one of ours."""
    return next((base for base in cls.__bases__ if base.__module__.startswith("transformers.models.")), None)


def by_name(method: Callable[..., Any], stock_method: Callable[..., Any], names: tuple[str, ...]) -> Callable[..., Any]:
    """`method` under the signature of `stock_method` plus the keyword-only `names`; it gets all arguments by name."""
    stock = inspect.signature(stock_method)
    parameters = list(stock.parameters.values())
    positional = [name for name in stock.parameters if name != "self"]
    added = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None) for name in names]
    wildcard = [parameters.pop()] if parameters[-1].kind == inspect.Parameter.VAR_KEYWORD else []

    @functools.wraps(method)  # ours, not the stock one: source, name and docstring stay those of the override
    def override(self: Any, *args: Any, **kwargs: Any) -> Any:
        if len(args) > len(positional):
            raise TypeError(f"{method.__name__}() takes {len(positional)} positional arguments, got {len(args)}.")
        return method(self, **dict(zip(positional, args)), **kwargs)

    override.__signature__ = stock.replace(parameters=[*parameters, *added, *wildcard])  # type: ignore[attr-defined]
    return override
