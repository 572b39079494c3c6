"""Methods to compare with, beside the selectors: of other papers, and the simplest that a reader would think of.

Each runs on the models of this package, in `divprune-hf evaluate`, or says what it lacks. They are part of evaluations,
not of published models. A new one is a file here and an entry in `BASELINES`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from divprune_hf.evaluation.baselines.base_view import base_view
from divprune_hf.evaluation.baselines.distances import l1, l2, max_min_with, random_distance
from divprune_hf.evaluation.baselines.in_layers import Leaving
from divprune_hf.evaluation.baselines.merge import merged
from divprune_hf.evaluation.baselines.picture import Picture
from divprune_hf.evaluation.baselines.pool import pooled
from divprune_hf.evaluation.baselines.prumerge import prumerge
from divprune_hf.evaluation.baselines.schedules import Schedule, fastv, fitprune, vtw


@dataclass(frozen=True)
class Baseline:
    """A method; it has either `compress` or `plan`.

    Args:
        label: its name in figures.
        compress: makes fewer features of a picture, in front of the language model: takes the picture and the most
            that may be left (K), and returns 1 to K features.
        plan: says when visual tokens leave inside the language model, and which.
        takes_layer: whether the setting `layer` has an effect on it.
    """

    label: str
    compress: Callable[[Picture, int], torch.Tensor] | None = None
    plan: Callable[[Schedule], Leaving] | None = None
    takes_layer: bool = False


BASELINES = {
    "pool": Baseline("average pooling", lambda picture, num_tokens: pooled(picture.features, num_tokens)),
    "merge": Baseline(
        "DivPrune, dropped tokens merged", lambda picture, num_tokens: merged(picture.features, num_tokens)
    ),
    "base_view": Baseline("base view alone", base_view),
    "prumerge": Baseline("PruMerge", prumerge),
    "fastv": Baseline("FastV", plan=fastv, takes_layer=True),
    "vtw": Baseline("VTW", plan=vtw),
    "fitprune": Baseline("FitPrune", plan=fitprune),
    "max_min_l1": Baseline("max-min of l1 distances", max_min_with(l1)),
    "max_min_l2": Baseline("max-min of l2 distances", max_min_with(l2)),
    "max_min_random": Baseline("max-min of random distances", max_min_with(random_distance)),
}
