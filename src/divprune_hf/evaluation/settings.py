"""Settings of an evaluation: a method, a budget and a seed, and how users write them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from divprune_hf.remote_code.configuration_divprune import DivPruneConfig
from divprune_hf.remote_code.selectors import selector_named
from divprune_hf.remote_code.settings import SETTINGS


DEFAULT_POSITIONS = SETTINGS["positions"].default


@dataclass(frozen=True)
class Setting:
    """A selector at a budget, and where its tokens stand.

    Args:
        selector: a name of `SELECTORS`.
        budget: a share of the visual tokens (float) or their number (int).
        seed: the seed of a selector that draws.
        positions: a value of the setting `positions`.

    Raises:
        ValueError: no such selector or positions, or an impossible budget or seed.
    """

    selector: str
    budget: float | int
    seed: int | None = None
    positions: str = DEFAULT_POSITIONS

    def __post_init__(self) -> None:
        DivPruneConfig(**self.as_budget(), **self.as_settings())

    def as_settings(self) -> dict[str, Any]:
        """Return everything but the budget under its name in `DivPruneConfig`."""
        return {"selector": self.selector, "seed": self.seed or 0, "positions": self.positions}

    def as_budget(self) -> dict[str, Any]:
        """Return the budget under its name in `DivPruneConfig`."""
        return {"num_tokens" if isinstance(self.budget, int) else "retention_ratio": self.budget}

    @property
    def keeps_all(self) -> bool:
        """Tell whether every visual token is kept, whatever the selector."""
        return isinstance(self.budget, float) and self.budget == 1

    @property
    def method(self) -> str:
        """The name of the selector, and of the positions where they are not the default."""
        return self.selector if self.positions == DEFAULT_POSITIONS else f"{self.selector} {self.positions}"

    @property
    def label(self) -> str:
        """The setting in words, for a progress bar."""
        return f"{self.method} {self.budget}" + ("" if self.seed is None else f" seed {self.seed}")


def parse_budget(text: str) -> float | int:
    """Return a budget as it is written: a share if it has a point or an exponent, otherwise a number of tokens."""
    try:
        return float(text) if "." in text or "e" in text.lower() else int(text)
    except ValueError:
        raise ValueError(f"Got budget {text!r}, expected a share such as 0.098 or a number of tokens.") from None


def all_settings(
    selectors: Sequence[str], budgets: Sequence[str], num_seeds: int, positions: Sequence[str] = (DEFAULT_POSITIONS,)
) -> list[Setting]:
    """Return every combination, in the order in which it is run.

    Args:
        selectors: names of `SELECTORS`.
        budgets: budgets as users write them.
        num_seeds: the number of seeds for each selector that draws.
        positions: values of the setting `positions`.

    Raises:
        ValueError: no such selector, an impossible budget, or budgets that are easily mistaken for each other.
    """
    values = [parse_budget(budget) for budget in budgets]
    if {"1", "1.0"} <= set(map(repr, values)):
        raise ValueError("Got the budgets 1 (one token) and 1.0 (all tokens), expected one of them in a run.")
    return [
        Setting(selector, value, seed, standing)
        for value in dict.fromkeys(values)
        for selector in dict.fromkeys(selectors)
        for standing in dict.fromkeys(positions)
        for seed in (range(num_seeds) if selector_named(selector).uses_seed else [None])
    ]
