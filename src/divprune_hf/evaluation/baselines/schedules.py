"""When visual tokens leave under a budget: the plans of FastV, VTW (arXiv 2405.05803) and FitPrune."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from divprune_hf.evaluation.baselines.fastv import attention_of_last, fastv_shares
from divprune_hf.evaluation.baselines.fitprune import fitted_shares, product_of_attentions
from divprune_hf.evaluation.baselines.in_layers import Leaving


FASTV_LAYER = 2  # of the paper


@dataclass(frozen=True)
class Schedule:
    """What a plan depends on.

    Attributes:
        num_layers: of the language model.
        num_available: visual tokens of a picture (M), the finest that a share is chosen to.
        layer: the setting `layer`, 0 for the method's own.
        cost: the cost of a schedule, as a share of the unpruned one's.
        budget: the largest cost that is allowed.
        lost: measures, on examples, what each layer's attention loses: see `share_lost`. It runs the model.
    """

    num_layers: int
    num_available: int
    layer: int
    cost: Callable[[Sequence[float]], float]
    budget: float
    lost: Callable[[], torch.Tensor]

    def fits(self, shares: Sequence[float]) -> bool:
        return self.cost(shares) <= self.budget

    def best(self, schedules: Sequence[list[float]], name: str) -> list[float]:
        """Return the last schedule that fits, of some in ascending order of cost.

        Raises:
            ValueError: none fits.
        """
        fitting = [shares for shares in schedules if self.fits(shares)]
        if not fitting:
            raise ValueError(
                f"Got a budget of {self.budget:.1%}, but {name} costs {self.cost(schedules[0]):.1%} at the least in "
                f"{self.num_layers} layers, expected at least that."
            )
        return fitting[-1]


def fastv(schedule: Schedule) -> Leaving:
    """Return FastV's plan: all tokens in front of a layer, then as many as the budget allows, by attention."""
    layer = schedule.layer or FASTV_LAYER
    shares = [number / schedule.num_available for number in range(1, schedule.num_available + 1)]
    ascending = [fastv_shares(schedule.num_layers, layer, share) for share in shares]
    return Leaving(schedule.best(ascending, f"fastv from layer {layer} on"), attention_of_last)


def vtw(schedule: Schedule) -> Leaving:
    """Return VTW's plan (visual tokens withdrawal): all tokens in as many layers as the budget allows, then none."""
    ascending = [fastv_shares(schedule.num_layers, layer, 0.0) for layer in range(1, schedule.num_layers + 1)]
    return Leaving(schedule.best(ascending, "vtw"), None)


def fitprune(schedule: Schedule) -> Leaving:
    """Return FitPrune's plan; see `fitprune.py`."""
    lost = schedule.lost()
    schedule.best([[1.0] + [0.0] * (schedule.num_layers - 1)], "fitprune")  # one that cannot be met is refused
    return Leaving(fitted_shares(lost, schedule.fits), product_of_attentions)
