"""Methods to compare with that make new features instead of choosing some: what a model is fed in place of an image.

They are part of evaluations, not of published models. A new one is a file here and an entry in `BASELINES`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from divprune_hf.evaluation.baselines.merge import merged
from divprune_hf.evaluation.baselines.pool import pooled


@dataclass(frozen=True)
class Baseline:
    """One way to make fewer features of an image's.

    Args:
        compress: takes the features of one image, `(M, D)`, and the most that may be left (K); returns 1 to K features.
        label: its name in figures.
    """

    compress: Callable[[torch.Tensor, int], torch.Tensor]
    label: str


BASELINES = {
    "pool": Baseline(pooled, label="average pooling"),
    "merge": Baseline(merged, label="DivPrune, dropped tokens merged"),
}
