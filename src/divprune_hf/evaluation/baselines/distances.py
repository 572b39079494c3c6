"""Max-min with distances other than the cosine's (table 4 of the paper)."""

from collections.abc import Callable

import torch

from divprune_hf.evaluation.baselines.picture import Picture


Distance = Callable[[torch.Tensor], torch.Tensor]


def l1(features: torch.Tensor) -> torch.Tensor:
    """Return the sums of absolute differences, `(M, M)`."""
    return torch.cdist(features, features, p=1)


def l2(features: torch.Tensor) -> torch.Tensor:
    """Return the Euclidean distances, `(M, M)`."""
    return torch.cdist(features, features, p=2, compute_mode="donot_use_mm_for_euclid_dist")


def random_distance(features: torch.Tensor) -> torch.Tensor:
    """Return symmetric distances that a fixed seed draws, uniform in [0, 1), `(M, M)`: they say nothing of features."""
    num_available = len(features)
    drawn = torch.rand(num_available, num_available, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return (drawn.triu(1) + drawn.triu(1).T).to(features.device)


def max_min_with(distance: Distance) -> Callable[[Picture, int], torch.Tensor]:
    """Return what keeps the features that greedy max-min picks under a distance, in the order of the picture."""

    def kept(picture: Picture, num_tokens: int) -> torch.Tensor:
        return picture.features[pick_by(distance(picture.features.double()), num_tokens).sort().values]

    return kept


def pick_by(distances: torch.Tensor, num_kept: int) -> torch.Tensor:
    """Return the picks of greedy max-min under given distances, in the order of picking.

    The first is the one that is farthest from its nearest other, as in `max_min.py`.

    Args:
        distances (`torch.Tensor` of shape `(M, M)`): symmetric.
        num_kept (`int`): how many to pick (K), from 1 to M.
    """
    others = distances.clone().fill_diagonal_(torch.inf)
    picks = [others.amin(dim=1).argmax()]
    smallest = torch.full_like(others[0], torch.inf)
    while len(picks) < num_kept:
        smallest = torch.minimum(smallest, others[picks[-1]])
        smallest[picks[-1]] = -torch.inf
        picks.append(smallest.argmax())
    return torch.stack(picks)
