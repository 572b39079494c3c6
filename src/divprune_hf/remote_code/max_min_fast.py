# SPDX-License-Identifier: Apache-2.0
"""The picks of `max_min.py`, for a batch of images at once and at less cost; for long videos and on GPUs too."""

from collections.abc import Sequence

import torch

from .fast_distances import cosine_distances
from .max_min_long import pick_by_blocks
from .max_min_triton import pick_with_triton, runs_on
from .selectors import Images
from .settings import check_order


# Up to this many distances, those of an image are all computed at once: 256 MiB in float32 on a CPU, 1.6 GiB on a GPU.
# Above, each pick computes the distances it needs.
LARGEST_MATRIX = {"cpu": 8192**2, "cuda": 20480**2}
# Up to this many, the images of a batch go together. A CPU gains while all of it stays in its caches: on small images.
LARGEST_BATCH = {"cpu": 2**20, "cuda": 20480**2}
# Images go apart where padding them to one size would make more than this many times their distances.
MOST_PADDING = 4


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
    features: Sequence[torch.Tensor], counts: Sequence[int], order: str = "raster"
) -> list[torch.Tensor]:
    """Select the tokens of each image of a batch together, as `select_diverse_tokens` does alone.

    Args:
        features (sequence of `torch.Tensor` of shape `(M, D)`): each image has its own M; one dtype, one device.
        counts (sequence of `int`): how many tokens to keep of each image, clamped to [1, M].
        order (`str`): see `select_diverse_tokens`.

    Returns:
        A list of one `torch.LongTensor` of shape `(K,)` per image.
    """
    check_order("order", order)
    if len(features) != len(counts):
        raise ValueError(f"Got {len(counts)} counts for {len(features)} images, expected one per image.")
    for image in features:
        if image.ndim != 2 or 0 in image.shape or not image.is_floating_point():
            raise ValueError(
                f"Got features of shape {tuple(image.shape)} and dtype {image.dtype}, "
                "expected floating point features of shape (tokens, width) with at least one token."
            )
    ascending = order == "raster"
    kept = [min(max(count, 1), len(image)) for image, count in zip(features, counts)]
    pruned = [i for i, image in enumerate(features) if not ascending or kept[i] < len(image)]
    pruned.sort(key=lambda i: len(features[i]))  # neighbours are of similar size
    with torch.inference_mode():  # without what autograd adds to each call, a tenth of a small selection
        picks = pick_tokens([features[i] for i in pruned], [kept[i] for i in pruned], ascending)
    # Copied: autograd refuses tensors from inference mode as indices of features that are trained.
    picks_of = dict(zip(pruned, torch.cat(picks).split([len(row) for row in picks]))) if picks else {}
    return [
        picks_of[i] if i in picks_of else torch.arange(len(image), device=image.device)
        for i, image in enumerate(features)
    ]


def max_min_picks(images: Images) -> list[torch.Tensor]:
    """Pick the most diverse tokens of each image: the selector `max_min`."""
    return select_diverse_tokens_of_images(images.features, images.counts, images.order)


def pick_tokens(features: list[torch.Tensor], counts: list[int], ascending: bool) -> list[torch.Tensor]:
    """Return the picks of each image, made in the way that suits the device and the number of tokens.

    Args:
        features: of each image, `(M, D)`; images ascend in size.
        counts: how many tokens to pick of each image (K).
        ascending: whether picks are returned ascending or in the order of picking.
    """
    if not features:
        return []
    device, num_distances = features[0].device.type, len(features) * len(features[-1]) ** 2
    unpadded = sum(len(image) ** 2 for image in features)
    most_together = min(LARGEST_BATCH.get(device, LARGEST_BATCH["cpu"]), MOST_PADDING * unpadded)
    if len(features) > 1 and num_distances > most_together:
        half = len(features) // 2
        first = pick_tokens(features[:half], counts[:half], ascending)
        return first + pick_tokens(features[half:], counts[half:], ascending)
    if num_distances > LARGEST_MATRIX.get(device, LARGEST_MATRIX["cpu"]):
        picks = pick_by_blocks(features[0], counts[0]).unsqueeze(0)
    else:
        distances, nearest, ceiling = cosine_distances(features)
        if runs_on(distances):
            return pick_with_triton(distances, nearest, ceiling, counts, ascending)
        picks = pick_greedily(distances, nearest, ceiling, max(counts))
    picks_of_images = [row[:count] for row, count in zip(picks, counts)]
    return [row.sort().values for row in picks_of_images] if ascending else picks_of_images


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
