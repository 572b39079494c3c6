# SPDX-License-Identifier: Apache-2.0
"""The budget: how many of the M visual tokens of an image or video are kept (K), and which budgets are possible."""

from numbers import Integral, Real
from typing import Any


def check_ratio(name: str, value: Any) -> None:
    """Raise a `ValueError` unless the setting `name` is a share: a real number above 0 and at most 1."""
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    # `not (0 < NaN <= 1)` is true: NaN is refused without a case of its own.
    if not is_number or not 0 < value <= 1:
        raise ValueError(
            f"Got {name}={value!r}, expected a number above 0 and at most 1: "
            "0.098 keeps about a tenth of the visual tokens, 1.0 keeps all of them."
        )


def check_number(name: str, value: Any) -> None:
    """Raise a `ValueError` unless the setting `name` is a number of tokens: an integer of at least 1."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
        raise ValueError(f"Got {name}={value!r}, expected an integer of at least 1: how many visual tokens to keep.")


def check_one_budget(budget: dict[str, Any]) -> None:
    """Raise a `ValueError` where more than one of the settings in `budget`, by name, is given."""
    given = [f"{name}={value!r}" for name, value in budget.items() if value is not None]
    if len(given) > 1:
        raise ValueError(
            f"Got both {' and '.join(given)}, expected one budget: pass either the share of visual tokens to keep or "
            "their number."
        )


def keep_count(num_available: int, *, retention_ratio: float | None = None, num_tokens: int | None = None) -> int:
    """Return how many of `num_available` visual tokens (M) a budget keeps (K).

    `K = round(retention_ratio * M)` (Python's round: half to even), or `num_tokens`; at least 1, at most M.

    Raises:
        ValueError: no token is available, the budget is missing, given twice or impossible.
    """
    check_one_budget({"retention_ratio": retention_ratio, "num_tokens": num_tokens})
    if num_available < 1:
        raise ValueError(f"Got {num_available} visual tokens, expected at least 1: there is nothing to keep.")
    if retention_ratio is not None:
        check_ratio("retention_ratio", retention_ratio)
        wanted = round(float(retention_ratio) * num_available)
    elif num_tokens is not None:
        check_number("num_tokens", num_tokens)
        wanted = int(num_tokens)
    else:
        raise ValueError("Got no budget, expected retention_ratio or num_tokens.")
    return max(1, min(wanted, num_available))
