# SPDX-License-Identifier: Apache-2.0
"""The greedy loop of `max_min_diversity.py` as one Triton program per image: a GPU runs a whole batch in one launch.

Launched step by step, the loop costs a GPU more than its arithmetic: K dependent steps of a few launches each.
Triton is optional, and imported when the first features arrive on a GPU.
"""

from __future__ import annotations

import functools
import warnings
from typing import Any

import torch

from .cosine_distances import cosine_distances, distance_dtype


# One program holds a row of distances in the registers of its warps.
LARGEST_PROGRAM = 8192
# Entries between the beginnings of matrices: aligned as torch aligns a tensor, a matrix product takes the same kernel.
ALIGNMENT = 128
tl: Any = None  # triton.language, once it is needed


def max_min_program(
    distances,  # (M, M) of one image after the other, each begins at a multiple of ALIGNMENT; -Inf on the diagonals
    nearest,  # (M,) of one image after the other
    ceiling,  # (M,) of one image after the other
    picks,  # int64, (K,) of one image after the other
    counts,  # int64: M of all images, then K of all images
    num_images,
    ASCENDING: tl.constexpr,
    ALIGNMENT: tl.constexpr,
    IMAGES: tl.constexpr,  # a power of two, at least the number of images
    TOKENS: tl.constexpr,  # a power of two, at least the largest M
):
    image = tl.program_id(0)
    num_available, num_tokens = tl.load(counts + image), tl.load(counts + num_images + image)
    others = tl.arange(0, IMAGES)
    before = others < image
    sizes_before = tl.load(counts + others, mask=before, other=0)
    distances += tl.sum(tl.cdiv(sizes_before * sizes_before, ALIGNMENT) * ALIGNMENT, axis=0)
    first = tl.sum(sizes_before, axis=0)
    picks += tl.sum(tl.load(counts + num_images + others, mask=before, other=0), axis=0)

    token = tl.arange(0, TOKENS)
    inside = token < num_available
    smallest = tl.load(ceiling + first + token, mask=inside, other=-float("inf"))
    # Of equal values, argmax takes the first.
    pick = tl.argmax(tl.load(nearest + first + token, mask=inside, other=-float("inf")), axis=0)
    for step in range(1, num_tokens):
        if not ASCENDING:
            tl.store(picks + step - 1, pick)
        row = tl.load(distances + pick * num_available + token, mask=inside, other=0.0)
        smallest = tl.minimum(smallest, row)
        pick = tl.argmax(smallest, axis=0)
    if ASCENDING:
        taken = inside & ((smallest == -float("inf")) | (token == pick))
        tl.store(picks + tl.cumsum(taken.to(tl.int32), axis=0) - 1, token, mask=taken)
    else:
        tl.store(picks + num_tokens - 1, pick)


@functools.cache
def compiled_program():
    """The program, ready to launch; None where Triton is not installed."""
    global tl
    try:
        import triton
        import triton.language as tl
    except ImportError:
        return None
    return triton.jit(max_min_program)


@functools.cache
def runs_on(device: torch.device) -> bool:
    """Whether `device` is a GPU that can run the program: it is tried once, on a single token."""
    if device.type != "cuda" or compiled_program() is None:
        return False
    try:
        one_token = torch.zeros(1, device=device)
        launch(one_token, one_token, one_token, [1], [1], ascending=True)
    except Exception as error:  # a GPU too old for Triton, no C compiler: whatever it is, torch can do without
        message = f"Triton cannot run on {device}, so torch selects the visual tokens, more slowly: {error}"
        warnings.warn(message, stacklevel=2)
        return False
    return True


def pick_with_triton(features: list[torch.Tensor], num_tokens: list[int], ascending: bool) -> list[torch.Tensor]:
    """Greedy max-min cosine diversity of a batch of images, see `max_min_diversity.py`.

    Args:
        features (list of `torch.Tensor` of shape `(M, D)`, M at most `LARGEST_PROGRAM`): one per image.
        num_tokens (list of `int`): how many tokens to keep of each image, at least 1 and at most M.
        ascending (`bool`): whether the picks are returned ascending or in the order of picking.

    Returns:
        A list of one `torch.LongTensor` of shape `(K,)` per image.
    """
    sizes = [len(image) for image in features]
    distances, matrices = empty_matrices(sizes, distance_dtype(features[0]), features[0].device)
    # One product per image, which is what an image gets alone.
    vectors = [cosine_distances(image, out=matrix)[1:] for image, matrix in zip(features, matrices)]
    nearest, ceiling = (torch.cat(vector) for vector in zip(*vectors))
    return launch(distances, nearest, ceiling, sizes, num_tokens, ascending)


def empty_matrices(sizes: list[int], dtype: torch.dtype, device: torch.device):
    """One piece of memory for the distances of all images, and the square matrix of each image in it."""
    lengths = [-(-size * size // ALIGNMENT) * ALIGNMENT for size in sizes]
    memory = torch.empty(sum(lengths), dtype=dtype, device=device)
    return memory, [part[: size * size].view(size, size) for part, size in zip(memory.split(lengths), sizes)]


def launch(distances, nearest, ceiling, sizes: list[int], num_tokens: list[int], ascending: bool) -> list[torch.Tensor]:
    """Run the program on `empty_matrices` that were filled, and the vectors of one image after the other."""
    picks = torch.empty(sum(num_tokens), dtype=torch.long, device=distances.device)
    counts = on_device([*sizes, *num_tokens], distances.device)
    num_images, block = len(sizes), power_of_two(max(sizes))
    with torch.cuda.device_of(distances):  # Triton launches on the current device, whatever it is given
        compiled_program()[(num_images,)](
            distances,
            nearest,
            ceiling,
            picks,
            counts,
            num_images,
            ASCENDING=ascending,
            ALIGNMENT=ALIGNMENT,
            IMAGES=power_of_two(num_images),
            TOKENS=block,
            num_warps=min(max(block // 256, 1), 16),
        )
    return list(picks.split(num_tokens))


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
