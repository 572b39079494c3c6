# SPDX-License-Identifier: Apache-2.0
"""The steps of a GPU after the products of `fast_distances.py`: two Triton programs, each one launch for a batch.

One turns products into distances, which torch makes in seven passes over the matrices. The other is the greedy loop of
`max_min_fast.py`, one program per image: launched step by step, as torch does it, its K dependent steps cost more
than their arithmetic. Both give what torch gives, bit for bit. Triton is optional, and imported when the first features
arrive on a GPU.
"""

from __future__ import annotations

import functools
import warnings
from typing import Any

import torch


# One program holds a row of distances in the registers of its warps.
LARGEST_PROGRAM = 8192
tl: Any = None  # triton.language, once it is needed


def distances_program(
    products: tl.tensor,  # (images, M, M): becomes distances, with -Inf on the diagonals
    inverse_norm: tl.tensor,  # (images, M)
    is_zero: tl.tensor,  # (images, M)
    ceiling: tl.tensor,  # (images, M)
    nearest: tl.tensor,  # (images, M): to be filled
    size: tl.tensor,  # M
    NOISE: tl.constexpr,
    TOKENS: tl.constexpr,  # a power of two, at least M
) -> None:
    """One row: the same operations in the same order as torch's, and so the same distances bit for bit."""
    first, row = tl.program_id(0) * size, tl.program_id(1)
    products += (first + row).to(tl.int64) * size
    token = tl.arange(0, TOKENS)
    inside = token < size
    norms = tl.load(inverse_norm + first + token, mask=inside, other=1.0)
    zeros = tl.load(is_zero + first + token, mask=inside, other=0.0)
    distance = tl.load(products + token, mask=inside, other=0.0) + tl.load(is_zero + first + row) * zeros
    distance = distance * -tl.load(inverse_norm + first + row) * norms + 1
    distance = tl.where(distance <= NOISE, 0.0, tl.where(distance == distance, distance, float("inf")))
    to_others = tl.where(inside & (token != row), distance, float("inf"))
    tl.store(nearest + first + row, tl.minimum(tl.min(to_others, axis=0), tl.load(ceiling + first + row)))
    tl.store(products + token, tl.where(token == row, -float("inf"), distance), mask=inside)


def max_min_program(
    distances: tl.tensor,  # (images, M, M): -Inf on the diagonals
    nearest: tl.tensor,  # (images, M)
    ceiling: tl.tensor,  # (images, M)
    picks: tl.tensor,  # int64, (K,) of one image after the other: to be filled
    counts: tl.tensor,  # int64, (images,): K of each image
    size: tl.tensor,  # M
    ASCENDING: tl.constexpr,
    IMAGES: tl.constexpr,  # a power of two, at least the number of images
    TOKENS: tl.constexpr,  # a power of two, at least M
) -> None:
    """One image: each step loads one row of distances and keeps a running minimum."""
    image = tl.program_id(0)
    num_kept = tl.load(counts + image)
    others = tl.arange(0, IMAGES)
    picks += tl.sum(tl.load(counts + others, mask=others < image, other=0), axis=0)
    distances += image.to(tl.int64) * size * size

    token = tl.arange(0, TOKENS)
    inside = token < size
    smallest = tl.load(ceiling + image * size + token, mask=inside, other=-float("inf"))
    # Of equal values, argmax takes the first.
    pick = tl.argmax(tl.load(nearest + image * size + token, mask=inside, other=-float("inf")), axis=0)
    for step in range(1, num_kept):
        if not ASCENDING:
            tl.store(picks + step - 1, pick)
        row = tl.load(distances + pick * size + token, mask=inside, other=0.0)
        smallest = tl.minimum(smallest, row)
        pick = tl.argmax(smallest, axis=0)
    if ASCENDING:
        taken = inside & ((smallest == -float("inf")) | (token == pick))
        tl.store(picks + tl.cumsum(taken.to(tl.int32), axis=0) - 1, token, mask=taken)
    else:
        tl.store(picks + num_kept - 1, pick)


@functools.cache
def compiled_programs() -> tuple[Any, Any] | None:
    """Both programs, ready to launch; None where Triton is not installed."""
    global tl
    try:
        import triton  # type: ignore[import-untyped]  # it has no types
        import triton.language as tl  # type: ignore[import-untyped]
    except ImportError:
        return None
    return triton.jit(distances_program), triton.jit(max_min_program)


def programs() -> tuple[Any, Any]:
    """Both programs, where `runs_on` has said yes."""
    found = compiled_programs()
    if found is None:
        raise RuntimeError("Triton is not installed: ask runs_on first.")
    return found


def runs_on(distances: torch.Tensor) -> bool:
    """Tell whether the programs can take these distances, of shape `(images, M, M)`, where they are."""
    return (
        type(distances) is torch.Tensor  # not one without values, as tracing and planning of memory use
        and distances.device.type == "cuda"
        and distances.shape[-1] <= LARGEST_PROGRAM
        and not torch.compiler.is_compiling()
        and can_launch_on(distances.device)
    )


@functools.cache
def can_launch_on(device: torch.device) -> bool:
    """Tell whether `device` runs the programs: they are tried once, on a single token."""
    if compiled_programs() is None:
        return False
    try:
        product = torch.ones(1, 1, 1, device=device)
        ones = torch.ones(1, 1, device=device)
        pick_with_triton(product, to_distances_with_triton_(product, ones, ones, ones, 0.0), ones, [1], ascending=True)
    except Exception as error:  # a GPU too old for Triton, no C compiler: whatever it is, torch can do without
        message = f"Triton cannot run on {device}, so torch selects the visual tokens, more slowly: {error}"
        warnings.warn(message, stacklevel=2)
        return False
    return True


def to_distances_with_triton_(
    products: torch.Tensor, inverse_norm: torch.Tensor, is_zero: torch.Tensor, ceiling: torch.Tensor, noise: float
) -> torch.Tensor:
    """Turn products of rows, of shape `(images, M, M)`, into cosine distances in place; see `fast_distances.py`.

    Returns:
        `torch.Tensor` of shape `(images, M)`: each row's distance to its nearest other row, at most its ceiling.
    """
    num_images, size = ceiling.shape
    nearest, block = torch.empty_like(ceiling), power_of_two(size)
    with torch.cuda.device_of(products):  # Triton launches on the current device, whatever it is given
        programs()[0][(num_images, size)](
            products,
            inverse_norm,
            is_zero,
            ceiling,
            nearest,
            size,
            NOISE=noise,
            TOKENS=block,
            num_warps=min(max(block // 256, 1), 8),
            enable_fp_fusion=False,  # torch rounds after the multiplication, too
        )
    return nearest


def pick_with_triton(
    distances: torch.Tensor, nearest: torch.Tensor, ceiling: torch.Tensor, counts: list[int], ascending: bool
) -> list[torch.Tensor]:
    """Return what `pick_greedily` of `max_min_fast.py` picks, given the same.

    Args:
        distances (`torch.Tensor` of shape `(images, M, M)`, M at most `LARGEST_PROGRAM`), nearest, ceiling (of shape
            `(images, M)`): see `cosine_distances`.
        counts (list of `int`): how many tokens to pick of each image (K), at least 1 and at most it has.
        ascending (`bool`): whether the picks are returned ascending or in the order of picking.

    Returns:
        A list of one `torch.LongTensor` of shape `(K,)` per image.
    """
    picks = torch.empty(sum(counts), dtype=torch.long, device=distances.device)
    counts_there = on_device(counts, distances.device)
    num_images, size = ceiling.shape
    block = power_of_two(size)
    with torch.cuda.device_of(distances):
        programs()[1][(num_images,)](
            distances,
            nearest,
            ceiling,
            picks,
            counts_there,
            size,
            ASCENDING=ascending,
            IMAGES=power_of_two(num_images),
            TOKENS=block,
            num_warps=min(max(block // 256, 1), 16),
        )
    return list(picks.split(counts))


def power_of_two(number: int) -> int:
    """The smallest power of two that is at least `number`."""
    return 1 << (number - 1).bit_length()


def on_device(numbers: list[int], device: torch.device) -> torch.Tensor:
    """An int64 tensor of `numbers`, which travel as arguments of a kernel.

    A copy from the host would wait for the device, and a CUDA graph would repeat it from memory that is gone.
    """
    tensor = torch.zeros(len(numbers), dtype=torch.long, device=device)
    torch._foreach_add_(tensor.unbind(), numbers)
    return tensor
