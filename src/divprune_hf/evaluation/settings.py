"""Settings of an evaluation: a method, a budget and a seed, and how users write them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from divprune_hf.evaluation.baselines import BASELINES, Baseline
from divprune_hf.remote_code.configuration_divprune import DivPruneConfig
from divprune_hf.remote_code.selectors import selector_named
from divprune_hf.remote_code.settings import SETTINGS


DEFAULT_POSITIONS = SETTINGS["positions"].default


@dataclass(frozen=True)
class Setting:
    """A selector at a budget, and where its tokens stand.

    Args:
        selector: a name of `SELECTORS` or `BASELINES`.
        budget: a share of the visual tokens (float), their number (int), or a share of the language model's FLOPs over
            an unpruned prompt, as text ("60%").
        seed: the seed of a selector that draws.
        positions: a value of the setting `positions`.
        layer: the decoder layer in front of which tokens are dropped.

    Raises:
        ValueError: no such selector, positions or layer, or an impossible budget or seed.
    """

    selector: str
    budget: float | int | str
    seed: int | None = None
    positions: str = DEFAULT_POSITIONS
    layer: int = 0

    def __post_init__(self) -> None:
        DivPruneConfig(**self.as_budget(0.5), **self.as_settings())
        baseline = BASELINES.get(self.selector)
        if baseline is not None and self.method != self.selector and not self._is_deeper(baseline):
            raise ValueError(
                f"Got {self.method!r}, expected {self.selector} alone: it has neither positions nor a layer to choose."
            )

    def _is_deeper(self, baseline: Baseline) -> bool:
        """Tell whether the setting differs from a baseline's own in its layer alone, and it takes one."""
        return baseline.takes_layer and self.positions == DEFAULT_POSITIONS

    def as_settings(self) -> dict[str, Any]:
        """Return everything but the budget under its name in `DivPruneConfig`; baselines do without the model's own."""
        return {
            "selector": SETTINGS["selector"].default if self.selector in BASELINES else self.selector,
            "seed": self.seed or 0,
            "positions": self.positions,
            "layer": 0 if self.selector in BASELINES else self.layer,
        }

    @property
    def flop_share(self) -> float | None:
        """The budget as a share of the FLOPs, if it is one."""
        return float(self.budget.removesuffix("%")) / 100 if isinstance(self.budget, str) else None

    def as_budget(self, ratio_for_flops: float) -> dict[str, Any]:
        """Return the budget under its name in `DivPruneConfig`; a share of the FLOPs is `ratio_for_flops` there."""
        if isinstance(self.budget, str):
            return {"retention_ratio": ratio_for_flops}
        return {"num_tokens" if isinstance(self.budget, int) else "retention_ratio": self.budget}

    @property
    def leaves_inside(self) -> bool:
        """Tell whether tokens leave inside the language model by a baseline's plan; the model itself keeps all."""
        return self.selector in BASELINES and BASELINES[self.selector].plan is not None

    @property
    def keeps_all(self) -> bool:
        """Tell whether every visual token is kept, whatever the selector."""
        return isinstance(self.budget, float) and self.budget == 1

    @property
    def method(self) -> str:
        """The name of the selector, with positions and layer where they are not the defaults."""
        positions = "" if self.positions == DEFAULT_POSITIONS else f" {self.positions}"
        return self.selector + positions + (f" layer {self.layer}" if self.layer else "")

    @property
    def label(self) -> str:
        """The setting in words, for a progress bar."""
        return f"{self.method} {self.budget}" + ("" if self.seed is None else f" seed {self.seed}")


def parse_budget(text: str) -> float | int | str:
    """Return a budget as it is written: a share of the tokens (0.098), their number (64), or of the FLOPs ("60%")."""
    try:
        if text.endswith("%"):
            share = float(text.removesuffix("%"))
            if not 0 < share < 100:
                raise ValueError(f"Got budget {text!r}, expected more than 0% and less than 100% of the FLOPs.")
            return text
        return float(text) if "." in text or "e" in text.lower() else int(text)
    except ValueError as error:
        if "FLOPs" in str(error):
            raise
        raise ValueError(
            f"Got budget {text!r}, expected a share such as 0.098, a number of tokens, or a share of the FLOPs such as "
            "60%."
        ) from None


def draws(name: str) -> bool:
    """Tell whether a method draws by a seed; a `ValueError` where there is no such method."""
    return name not in BASELINES and selector_named(name).uses_seed


def takes_layer(name: str) -> bool:
    """Tell whether the setting `layer` has an effect on a method."""
    return name not in BASELINES or BASELINES[name].takes_layer


def all_settings(
    selectors: Sequence[str],
    budgets: Sequence[str],
    num_seeds: int,
    *,
    positions: Sequence[str] = (DEFAULT_POSITIONS,),
    layers: Sequence[int] = (0,),
) -> list[Setting]:
    """Return every combination, in the order in which it is run.

    Args:
        selectors: names of `SELECTORS` and `BASELINES`.
        budgets: budgets as users write them.
        num_seeds: the number of seeds for each selector that draws.
        positions: values of the setting `positions`, for layer 0; a deeper layer leaves tokens where they are.
        layers: values of the setting `layer`; a baseline that takes none runs once.

    Raises:
        ValueError: no such selector, an impossible budget, or budgets that are easily mistaken for each other.
    """
    values = [parse_budget(budget) for budget in budgets]
    if {"1", "1.0"} <= set(map(repr, values)):
        raise ValueError("Got the budgets 1 (one token) and 1.0 (all tokens), expected one of them in a run.")
    return [
        Setting(selector, value, seed, DEFAULT_POSITIONS if layer else standing, layer)
        for value in dict.fromkeys(values)
        for selector in dict.fromkeys(selectors)
        for standing in dict.fromkeys([DEFAULT_POSITIONS] if selector in BASELINES else positions)
        for layer in dict.fromkeys(layers if takes_layer(selector) else [0])
        if layer == 0 or standing == positions[0]
        for seed in (range(num_seeds) if draws(selector) else [None])
    ]
