# SPDX-License-Identifier: Apache-2.0
"""Classes made from a stock class, whose overrides take the arguments of its methods in any release.

`generate`, its check of unused arguments and `Trainer` read signatures, and stock code calls by position or by name.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any

from .checkpoint_keys import read_base_checkpoints
from .transformers_surface import Stock, check_methods


class MadeFromStock(Stock):
    """A mixin in front of a class of transformers, which it checks for what it needs when it meets it.

    Its methods in `extended` take the stock method's arguments, and receive all of them by name.
    """

    # The methods, and the keyword-only arguments that they take besides.
    extended: dict[str, tuple[str, ...]] = {}
    # New methods with the signature of a stock one, and that one's name.
    taking_what: dict[str, str] = {}
    # Methods that the stock class must have, and the parameters that they must name.
    needed: dict[str, tuple[str, ...]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        stock = stock_base(cls)
        if stock is None:  # a mixin, or a user's subclass of a family's class
            return
        check_methods(stock, cls.needed)
        for name, names in cls.extended.items():
            stock_method = getattr(stock, cls.taking_what.get(name, name))
            setattr(cls, name, by_name(getattr(cls, name), stock_method, names))
        read_base_checkpoints(cls, stock)


def stock_base(cls: type) -> Any:
    """Return the class of transformers that a class is made from; None for a mixin, or a user's subclass of ours."""
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
