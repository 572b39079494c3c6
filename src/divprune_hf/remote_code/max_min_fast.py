# SPDX-License-Identifier: Apache-2.0
"""The picks of `max_min.py`, for a batch of images at once and at less cost; for long videos and on GPUs too."""

import math
from collections.abc import Callable, Sequence

import torch

from .fast_distances import cosine_distances, may_be_read
from .max_min_lazy import pick_lazily
from .max_min_long import pick_by_blocks
from .max_min_triton import pick_with_triton, runs_on
from .selectors import Images
from .settings import check_order


# Up to this many distances, those of an image are all computed at once: 256 MiB in float32 on a CPU, 1.6 GiB on a GPU.
# Above, each pick computes the distances it needs.
LARGEST_MATRIX = {"cpu": 8192**2, "cuda": 20480**2}
# Above this many tokens a CPU computes only the distances that decide: a matrix of all takes 150 MB there. Below, all
# of them are as quick, and much quicker where frames are alike.
LAZY_ABOVE = 6144
# Up to this many, images of one size go together. A CPU gains while all of it stays in its caches: on small images.
LARGEST_BATCH = {"cpu": 2**20, "cuda": 20480**2}
# What a selector makes of the features of an image: others, `(M, D)`, and a weight for each of them, `(M,)`.
Prepare = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


def select_diverse_tokens(features: torch.Tensor, num_tokens: int, order: str = "raster") -> torch.Tensor:
    """Return the indices of the `num_tokens` most diverse rows of `features`, by greedy max-min cosine distance.

    They are always `num_tokens` distinct ones, whatever the features hold. Ties go to the lowest index. Duplicates, and
    all rows nearer than float32's noise (1e-6), are at distance 0 of each other. A zero row is at distance 0 of zero
    rows and 1 of all others. Rows with NaN or Inf rank after all finite ones. Distances are at least float32 for every
    input dtype, under autocast and TF32 too. The indices stay on the device of `features`: nothing here waits for them.

    Args:
        features (`torch.Tensor` of shape `(M, D)`, floating point): the visual tokens of one image or video.
        num_tokens (`int`): how many to keep, clamped to [1, M].
        order (`str`): `"raster"` returns the indices ascending, `"selection"` in the order of picking, which is how
            the paper's Table 1 was made.

    Returns:
        `torch.LongTensor` of shape `(min(max(num_tokens, 1), M),)`.
    """
    return select_diverse_tokens_of_images([features], [num_tokens], order)[0]


def select_diverse_tokens_of_images(
    features: Sequence[torch.Tensor], counts: Sequence[int], order: str = "raster", prepare: Prepare | None = None
) -> list[torch.Tensor]:
    """Select the tokens of each image of a batch together, as `select_diverse_tokens` does alone.

    Args:
        features (sequence of `torch.Tensor` of shape `(M, D)`): each image has its own M; one dtype, one device.
        counts (sequence of `int`): how many tokens to keep of each image, clamped to [1, M].
        order (`str`): see `select_diverse_tokens`.
        prepare (*optional*): what to pick from instead; the smallest distance of each token is then multiplied by its
            weight, from 0 to 1, before the largest is picked.

    Returns:
        A list of one `torch.LongTensor` of shape `(K,)` per image.
    """
    check_order("order", order)
    if len(features) != len(counts):
        raise ValueError(f"Got {len(counts)} budgets for {len(features)} images, expected one per image.")
    for image in features:
        if image.ndim != 2 or 0 in image.shape or not image.is_floating_point():
            raise ValueError(
                f"Got features of shape {tuple(image.shape)} and dtype {image.dtype}, "
                "expected floating point features of shape (tokens, width) with at least one token."
            )
    ascending = order == "raster"
    kept = [min(max(count, 1), len(image)) for image, count in zip(features, counts)]
    pruned = [i for i, image in enumerate(features) if not ascending or kept[i] < len(image)]
    picks_of: dict[int, torch.Tensor] = {}
    with torch.inference_mode():  # without what autograd adds to each call, a tenth of a small selection
        for group in groups_of_one_size(features, pruned):
            picks = pick_tokens([features[i] for i in group], [kept[i] for i in group], ascending, prepare)
            picks_of.update(zip(group, picks))
    # Copied: autograd refuses tensors from inference mode as indices of features that are trained.
    copies = torch.cat(list(picks_of.values())).split([len(picks) for picks in picks_of.values()]) if picks_of else ()
    picks_of = dict(zip(picks_of, copies))
    return [
        picks_of[i] if i in picks_of else torch.arange(len(image), device=image.device)
        for i, image in enumerate(features)
    ]


def groups_of_one_size(features: Sequence[torch.Tensor], pruned: list[int]) -> list[list[int]]:
    """Return the numbers `pruned` of images in groups that are picked from together: of one M, and within memory."""
    by_size: dict[int, list[int]] = {}
    for i in pruned:
        by_size.setdefault(len(features[i]), []).append(i)
    groups = []
    for size, group in by_size.items():
        most = max(1, LARGEST_BATCH.get(features[group[0]].device.type, LARGEST_BATCH["cpu"]) // size**2)
        groups += [group[start : start + most] for start in range(0, len(group), most)]
    return groups


def max_min_picks(images: Images) -> list[torch.Tensor]:
    """Pick the most diverse tokens of each image: the selector `max_min`."""
    return select_diverse_tokens_of_images(images.features, images.counts, images.order)


def pick_tokens(
    features: list[torch.Tensor], counts: list[int], ascending: bool, prepare: Prepare | None = None
) -> list[torch.Tensor]:
    """Return the picks of each image, made in the way that suits the device and the number of tokens.

    Args:
        features: of each image, `(M, D)`; all have one M.
        counts: how many tokens to pick of each image (K).
        ascending: whether picks are returned ascending or in the order of picking.
        prepare: see `select_diverse_tokens_of_images`.
    """
    device, may_read = features[0].device.type, may_be_read(features[0])
    weights: Sequence[torch.Tensor | None] = [None] * len(features)
    if prepare is not None:
        features, weights = map(list, zip(*map(prepare, features)))
    if len(features[0]) > LAZY_ABOVE and may_read:
        picks = torch.stack([pick_lazily(image, max(counts), *of_it) for image, *of_it in zip(features, weights)])
    elif len(features[0]) ** 2 > LARGEST_MATRIX.get(device, LARGEST_MATRIX["cpu"]):
        (image,), (num_kept,) = features, counts
        picks = pick_by_blocks(image, num_kept, weights[0]).unsqueeze(0)
    else:
        distances, nearest, ceiling = cosine_distances(features)
        if prepare is not None:
            weigh_(distances, nearest, torch.stack([weight for weight in weights if weight is not None]))
        if runs_on(distances):
            return pick_with_triton(distances, nearest, ceiling, counts, ascending)
        picks = pick_greedily(distances, nearest, ceiling, max(counts))
    picks_of_images = [row[:num_kept] for row, num_kept in zip(picks, counts)]
    return [row.sort().values for row in picks_of_images] if ascending else picks_of_images


def weigh_(distances: torch.Tensor, nearest: torch.Tensor, weights: torch.Tensor) -> None:
    """Multiply distances to each token, `(images, M, M)`, and nearest ones by its weight, `(images, M)`, in place."""
    # As no weight is negative, the smallest distance times a weight is the smallest of the products.
    distances.mul_(weights.unsqueeze(1)).nan_to_num_(nan=math.inf, posinf=math.inf, neginf=-math.inf)
    distances.diagonal(dim1=1, dim2=2).fill_(-math.inf)  # 0 times -Inf is NaN
    nearest.mul_(weights)


def pick_greedily(distances: torch.Tensor, nearest: torch.Tensor, ceiling: torch.Tensor, num_kept: int) -> torch.Tensor:
    """Pick from the distances of several images at once: the loop of `max_min.py`.

    Args:
        distances (`torch.Tensor` of shape `(images, M, M)`): between the tokens of each image; -Inf on the diagonal.
        nearest (`torch.Tensor` of shape `(images, M)`): each token's distance to its nearest other one.
        ceiling (`torch.Tensor` of shape `(images, M)`): Inf, or less for tokens that must rank behind others.
        num_kept (`int`): how many tokens to pick of each image, the largest K among them.

    Returns:
        `torch.LongTensor` of shape `(images, num_kept)`, in the order of picking.
    """
    num_images, num_available = nearest.shape
    rows = distances.view(-1, num_available)
    # Where the rows of each image begin.
    start = torch.arange(0, len(rows), num_available, device=rows.device) if num_images > 1 else None
    smallest, row = ceiling.clone(), torch.empty_like(ceiling)
    # In place: on small images and on GPUs the launching of each step costs more than its arithmetic.
    picks = torch.empty(num_kept, num_images, dtype=torch.long, device=rows.device)
    steps = picks.unbind()
    torch.argmax(nearest, dim=1, out=steps[0])
    for step in range(1, num_kept):
        last = steps[step - 1] if start is None else steps[step - 1] + start
        torch.index_select(rows, 0, last, out=row)
        torch.minimum(smallest, row, out=smallest)
        torch.argmax(smallest, dim=1, out=steps[step])
    return picks.T
