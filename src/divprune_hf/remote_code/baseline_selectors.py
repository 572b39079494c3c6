# SPDX-License-Identifier: Apache-2.0
"""Baselines to compare DivPrune with: as many visual tokens, chosen without looking at what they hold.

`random` draws by a hash of the picture's pixels and a seed, so a picture keeps the same tokens alone and in a batch, on
every device, and in float32 as in bfloat16. `uniform` takes every M/K-th token.
"""

from typing import Any

import torch

from .selectors import Images


MASK = 2**32 - 1


def uniform_picks(images: Images) -> list[torch.Tensor]:
    """Every M/K-th token of each image or video."""
    return [
        uniform_indices(len(features), count, features.device)
        for features, count in zip(images.features, images.counts)
    ]


def random_picks(images: Images) -> list[torch.Tensor]:
    """K tokens of each image or video, drawn by its pixels and the seed; with the order of selection as drawn."""
    picks = []
    for pixels, features, count in zip(images.pixels, images.features, images.counts):
        drawn = random_indices(pixels, len(features), count, images.seed).to(features.device)
        picks.append(drawn.sort().values if images.order == "raster" else drawn)
    return picks


def uniform_indices(num_available: int, num_kept: int, device: torch.device | None = None) -> torch.Tensor:
    """The indices `floor((i + 0.5) M / K)`: the middles of K equal stretches of M tokens."""
    steps = torch.arange(num_kept, device=device)
    return torch.div((2 * steps + 1) * num_available, 2 * num_kept, rounding_mode="floor")


def random_indices(pixels: torch.Tensor, num_available: int, num_kept: int, seed: int = 0) -> torch.Tensor:
    """K of M indices in the order of a shuffle that `seed` and the values of `pixels` decide.

    Everything stays on the device of `pixels`, in whole numbers: no generator, no rounding, nothing read on the host.
    """
    tokens = torch.arange(num_available, device=pixels.device)
    start = scramble((checksum(pixels) + scramble(int(seed) + 1)) & MASK)
    # One key per token, and no two alike: `scramble` never maps two numbers to one.
    return scramble((tokens + start) & MASK).argsort()[:num_kept]


def checksum(pixels: torch.Tensor) -> torch.Tensor:
    """A number of 32 bits, as an int64 tensor without dimensions, that depends on every pixel and its place.

    Pixels count as bfloat16, so that a model in float32 and one in bfloat16 draw alike; float16 pixels are rounded
    twice and draw otherwise. Zeros at the end add nothing: LLaVA-NeXT pads the views of a picture with them to the
    number of the largest picture in the batch.
    """
    bits = pixels.to(torch.bfloat16).view(torch.int16).flatten().long()
    places = scramble(torch.arange(1, bits.numel() + 1, device=bits.device) & MASK)
    return (bits * places & MASK).sum() & MASK


def scramble(numbers: Any) -> Any:
    """Mix the bits of whole numbers (Python's or int64 tensors) of 32 bits, one to one; products stay below 2**59."""
    for _ in range(2):
        numbers = ((numbers >> 16) ^ numbers) * 0x45D9F3B & MASK
    return (numbers >> 16) ^ numbers
