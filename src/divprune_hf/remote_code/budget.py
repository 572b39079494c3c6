# SPDX-License-Identifier: Apache-2.0
"""The number of visual tokens to keep and their order: possible settings, and what they come to."""

from numbers import Integral, Real


ORDERS = ("raster", "selection")


def check_budget(retention_ratio: float | None = None, num_tokens: int | None = None, prefix: str = "") -> None:
    """Raise a `ValueError` unless at most one budget is given and it is a possible one.

    Args:
        retention_ratio: share of the visual tokens to keep, a real number in (0, 1].
        num_tokens: number of visual tokens to keep, an integer of at least 1.
        prefix: what the names of the two begin with in an error, such as "video_".
    """
    if retention_ratio is not None and num_tokens is not None:
        raise ValueError(
            f"Got both {prefix}retention_ratio={retention_ratio!r} and {prefix}num_tokens={num_tokens!r}, expected one "
            "budget: pass either the share of visual tokens to keep or their number."
        )
    if retention_ratio is not None:
        is_number = isinstance(retention_ratio, Real) and not isinstance(retention_ratio, bool)
        # `not (0 < NaN <= 1)` is true: NaN is refused without a case of its own.
        if not is_number or not 0 < retention_ratio <= 1:
            raise ValueError(
                f"Got {prefix}retention_ratio={retention_ratio!r}, expected a number above 0 and at most 1: "
                "0.098 keeps about a tenth of the visual tokens, 1.0 keeps all of them."
            )
    if num_tokens is not None:
        is_integer = isinstance(num_tokens, Integral) and not isinstance(num_tokens, bool)
        if not is_integer or num_tokens < 1:
            raise ValueError(
                f"Got {prefix}num_tokens={num_tokens!r}, expected an integer of at least 1: "
                "how many visual tokens to keep."
            )


def check_order(order: str) -> None:
    """Raise a `ValueError` unless `order` is one of `ORDERS`."""
    if order not in ORDERS:
        raise ValueError(
            f"Got order={order!r}, expected one of {ORDERS}: kept tokens stay in the image's raster order, "
            "or go in the order in which they were picked."
        )


def keep_count(num_available: int, retention_ratio: float | None = None, num_tokens: int | None = None) -> int:
    """Return how many of `num_available` visual tokens (M) a budget keeps (K).

    `K = round(retention_ratio * M)` (Python's round: half to even), or `num_tokens`; at least 1, at most M.

    Raises:
        ValueError: no token is available, the budget is missing, given twice or impossible.
    """
    check_budget(retention_ratio, num_tokens)
    if num_available < 1:
        raise ValueError(f"Got {num_available} visual tokens, expected at least 1: there is nothing to keep.")
    if num_tokens is None and retention_ratio is None:
        raise ValueError("Got no budget, expected retention_ratio or num_tokens.")
    wanted = round(float(retention_ratio) * num_available) if retention_ratio is not None else num_tokens
    return min(max(int(wanted or 1), 1), num_available)
