# SPDX-License-Identifier: Apache-2.0
"""DivPrune's idea in one file: keep the `num_tokens` most diverse of an image's visual tokens.

Greedy max-min diversity (DivPrune, arXiv 2503.02175, section 3): with the cosine distance d(a, b) = 1 - cos(a, b),

1. the first pick is the token whose distance to its nearest other token is largest;
2. then, until `num_tokens` are picked: the token whose smallest distance to the picked ones is largest.

The paper calls this the exact solution of the max-min diversity problem; it is the greedy farthest-first heuristic,
which comes within a factor of two of it. Nothing is trained and nothing is calibrated.
"""

import math
from numbers import Integral, Real

import torch


ORDERS = ("raster", "selection")
# Distances below this are rounding noise of a float32 product, and count as 0.
NOISE = 2.0**-20


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
    """How many of `num_available` visual tokens (M) a budget keeps (K).

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


def select_diverse_tokens(features: torch.Tensor, num_tokens: int, order: str = "raster") -> torch.Tensor:
    """Indices of the `num_tokens` most diverse rows of `features`, by greedy max-min cosine distance.

    Always `num_tokens` distinct indices, whatever the features hold: ties go to the lowest index; duplicates, and all
    rows nearer than float32's noise (1e-6), are at distance 0 of each other; a zero row is at distance 0 of zero rows
    and 1 of all others; rows with NaN or Inf rank after all finite ones. Distances are at least float32 for every input
    dtype, under autocast and TF32 too. The indices stay on the device of `features`: nothing here waits for them.

    Args:
        features (`torch.Tensor` of shape `(M, D)`, floating point): the visual tokens of one image or video.
        num_tokens (`int`): how many to keep, clamped to [1, M].
        order (`str`): `"raster"` returns the indices ascending, `"selection"` in the order of picking, which is how
            the paper's Table 1 was made.

    Returns:
        `torch.LongTensor` of shape `(min(max(num_tokens, 1), M),)`.
    """
    check_order(order)
    if features.ndim != 2 or 0 in features.shape or not features.is_floating_point():
        raise ValueError(
            f"Got features of shape {tuple(features.shape)} and dtype {features.dtype}, "
            "expected floating point features of shape (tokens, width) with at least one token."
        )
    num_available = features.shape[0]
    num_tokens = min(max(num_tokens, 1), num_available)
    if order == "raster" and num_tokens == num_available:
        return torch.arange(num_available, device=features.device)

    distances, nearest, is_finite = cosine_distances(features.detach())
    # A row that is not finite is worth -1, below every distance; a picked one -inf, below everything.
    pick = torch.where(is_finite, nearest, -1.0).argmax(dim=0, keepdim=True)
    smallest = torch.where(is_finite, math.inf, -1.0).to(distances.dtype)
    picks = [pick]
    for _ in range(num_tokens - 1):
        # fmin, not minimum: distances to rows that are not finite may be NaN, and must not count.
        smallest = torch.fmin(smallest, distances.index_select(0, pick).squeeze(0)).index_fill(0, pick, -math.inf)
        pick = smallest.argmax(dim=0, keepdim=True)
        picks.append(pick)
    in_order_of_picking = torch.cat(picks)
    return in_order_of_picking.sort().values if order == "raster" else in_order_of_picking


def cosine_distances(features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Cosine distances between all rows of `features`.

    Args:
        features (`torch.Tensor` of shape `(M, D)`).

    Returns:
        distances (`torch.Tensor` of shape `(M, M)`, float32 or float64): 0 between duplicates, otherwise at least
        `NOISE`; meaningless where one of the two rows is not finite.
        nearest (`torch.Tensor` of shape `(M,)`): each row's distance to its nearest other finite row.
        is_finite (`torch.BoolTensor` of shape `(M,)`): rows without NaN and Inf.
    """
    dtype = distance_dtype(features)
    largest = torch.maximum(features.amax(dim=1), -features.amin(dim=1)).to(dtype)
    is_finite = largest.isfinite()
    # Scaling each row by a power of two to about 1 is exact, keeps the squares from over- and underflowing, and leaves
    # products of bf16 and fp16 features exact in float32; dividing by the norm before the product would not.
    limit = 126 if dtype == torch.float32 else 1022
    exponent = torch.frexp(largest).exponent.clamp(-limit, limit)
    scale = torch.ldexp(torch.ones_like(largest), -exponent)
    scaled = features * scale.unsqueeze(1)
    # Kernels of small products sum in an order that differs from entry to entry, by more than `NOISE` where D is large.
    distances = gram_matrix(scaled) if len(features) >= 64 else gram_matrix(scaled.double()).to(dtype)
    # A zero row gets a direction of its own: at distance 0 of other zero rows, 1 of all others.
    is_zero = (largest == 0).to(dtype)
    inverse_norm = (distances.diagonal() + is_zero).sqrt().reciprocal()
    nearest = []
    # In place and block by block, so that each block is read once while it is in the cache.
    rows_per_block = max(1, 2**20 // len(features))
    for start in range(0, len(features), rows_per_block):
        rows = slice(start, start + rows_per_block)
        block = distances[rows].addr_(is_zero[rows], is_zero)
        block.mul_(-inverse_norm[rows].unsqueeze(1)).mul_(inverse_norm)
        # 1 - cos of two equal rows is rounding noise: as 0, duplicates tie and the lowest index wins.
        torch.threshold_(block.add_(1), NOISE, 0)
        others = block.masked_fill(~is_finite, math.inf)
        others.diagonal(start).fill_(math.inf)
        nearest.append(others.amin(dim=1))
    return distances, torch.cat(nearest), is_finite


def gram_matrix(features: torch.Tensor) -> torch.Tensor:
    """`features @ features.T` at three quarters of its cost: the product is symmetric, so one corner is a copy.

    With `out=` autocast keeps its hands off: the product has the dtype of `features`.
    """
    half = len(features) // 2
    rest = len(features) - half
    top = torch.mm(features[:half], features.T, out=features.new_empty(half, len(features)))
    corner = torch.mm(features[half:], features[half:].T, out=features.new_empty(rest, rest))
    return torch.cat([top, torch.cat([top[:, half:].T, corner], dim=1)])


def distance_dtype(features: torch.Tensor) -> torch.dtype:
    """float32 where a float32 matrix product is one, float64 where settings let it round its inputs (TF32, bf16).

    bfloat16 features survive that rounding unchanged, so they take the fast way.
    """
    if features.dtype == torch.float64:
        return torch.float64
    return torch.float32 if features.dtype == torch.bfloat16 or float32_products_are_exact() else torch.float64


@torch.compiler.assume_constant_result
def float32_products_are_exact() -> bool:
    """Whether the process keeps float32 matrix products in float32, however it says so."""
    backends = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)
    if all(hasattr(backend, "fp32_precision") for backend in backends):
        return all(backend.fp32_precision in ("none", "ieee") for backend in backends)
    return torch.get_float32_matmul_precision() == "highest"  # before torch 2.9
