"""Random batches of images of different sizes, and the Triton program against torch on the same distances.

    TRITON_INTERPRET=1 python tests/ragged_batches.py [NUM_BATCHES]

runs the program in Triton's interpreter on a CPU. It must be set before Triton is imported, hence a process of its own.
"""

import math
import sys

import torch
from naive_max_min import exact_features

from divprune_hf.remote_code.cosine_distances import cosine_distances
from divprune_hf.remote_code.max_min_diversity import pick_greedily
from divprune_hf.remote_code.max_min_diversity_triton import empty_matrices, launch, pick_with_triton


DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]


def ragged_batch(seed, most_images=6, most_tokens=90):
    """Features of 1 to `most_images` images of 1 to `most_tokens` tokens, with ties, duplicates, zero and bad rows."""
    generator = torch.Generator().manual_seed(seed)

    def draw(low, high):
        return int(torch.randint(low, high + 1, (), generator=generator))

    dtype, d = DTYPES[draw(0, 3)], 4 ** draw(1, 3)
    features = []
    for _ in range(draw(1, most_images)):
        m = draw(1, most_tokens)
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
    """Assert that the program picks what torch picks, image by image, both from distances computed once and as used."""
    results = [cosine_distances(image) for image in features]
    expected = [
        pick_greedily(*(tensor.unsqueeze(0) for tensor in result), count)[0] for result, count in zip(results, kept)
    ]
    sizes = [len(image) for image in features]
    distances, matrices = empty_matrices(sizes, results[0][0].dtype, features[0].device)
    for matrix, (own, _, _) in zip(matrices, results):
        matrix.copy_(own)
    nearest, ceiling = (torch.cat(vectors) for vectors in list(zip(*results))[1:])
    picks = launch(distances, nearest, ceiling, sizes, kept, ascending=False)
    assert all(map(torch.equal, picks, expected)), (sizes, kept)
    assert all(map(torch.equal, pick_with_triton(features, kept, ascending=False), expected)), (sizes, kept)
    ascending = pick_with_triton(features, kept, ascending=True)
    assert all(torch.equal(a, b.sort().values) for a, b in zip(ascending, expected)), (sizes, kept)


def main(num_batches):
    for seed in range(num_batches):
        check_parity(*ragged_batch(seed))
    check_parity([torch.randn(576, 64), torch.randn(1, 64), torch.full((700, 64), 0.3)], [56, 1, 70])
    print(f"{num_batches + 1} batches")


if __name__ == "__main__":
    main(int(sys.argv[1]))
