"""Random batches of images of different sizes, and the Triton programs against torch on the same features.

    TRITON_INTERPRET=1 python -m tests.helpers.ragged_batches [NUM_BATCHES]

runs them in Triton's interpreter on a CPU. It must be set before Triton is imported, hence a process of its own.
"""

import math
import sys
from unittest import mock

import torch

from divprune_hf.remote_code import max_min_triton
from divprune_hf.remote_code.fast_distances import NOISE, cosine_distances, gram_matrices, row_statistics
from divprune_hf.remote_code.max_min_fast import groups_of_one_size, pick_greedily
from divprune_hf.remote_code.max_min_triton import pick_with_triton, to_distances_with_triton_
from tests.naive_max_min import exact_features


DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]


def ragged_batch(seed, most_images=6, most_tokens=90):
    """Features of 1 to `most_images` images of 1 to `most_tokens` tokens: ties, duplicates, zero and bad rows."""
    generator = torch.Generator().manual_seed(seed)

    def draw(low, high):
        return int(torch.randint(low, high + 1, (), generator=generator))

    dtype, d = DTYPES[draw(0, 3)], 4 ** draw(1, 3)
    features, sizes = [], [draw(1, most_tokens) for _ in range(most_images // 2)]
    for _ in range(draw(1, most_images)):
        m = sizes[draw(0, len(sizes) - 1)]  # some images are of one size: they go together
        if draw(0, 1):
            image = exact_features(draw(0, 2**16), m, d, dtype)
        else:
            image = torch.randn(m, d, generator=generator).to(dtype)
        image = image[torch.randint(0, m, (m,), generator=generator)] if draw(0, 2) == 0 else image
        for value in (0.0, math.nan, math.inf):
            if draw(0, 2) == 0:
                image[torch.rand(m, generator=generator) < 0.2] = value
        features.append(image)
    return features, [draw(1, len(image)) for image in features]


def check_parity(features, kept):
    """Assert that the programs compute and pick, bit for bit, what torch does on the same device."""
    for group in groups_of_one_size(features, list(range(len(features)))):
        check_parity_of_group([features[i] for i in group], [kept[i] for i in group])


def check_parity_of_group(features, kept):
    """The same for images of one size."""
    with mock.patch.object(max_min_triton, "can_launch_on", lambda device: False):
        expected_distances = cosine_distances(features)
    products = gram_matrices(features)
    inverse_norm, is_zero, ceiling = row_statistics(products.diagonal(dim1=1, dim2=2))
    nearest = to_distances_with_triton_(products, inverse_norm, is_zero, ceiling, NOISE)
    assert all(map(torch.equal, (products, nearest, ceiling), expected_distances)), kept
    picks = pick_greedily(*expected_distances, max(kept))
    expected = [row[:count] for row, count in zip(picks, kept)]
    assert all(map(torch.equal, pick_with_triton(products, nearest, ceiling, kept, ascending=False), expected)), kept
    ascending = pick_with_triton(products, nearest, ceiling, kept, ascending=True)
    assert all(torch.equal(a, b.sort().values) for a, b in zip(ascending, expected)), kept


def main(num_batches):
    for seed in range(num_batches):
        check_parity(*ragged_batch(seed))
    check_parity([torch.randn(576, 64), torch.randn(1, 64), torch.full((700, 64), 0.3)], [56, 1, 70])
    print(f"{num_batches + 1} batches")


if __name__ == "__main__":
    main(int(sys.argv[1]))
