"""Selection under CPU autocast: every dtype, every autocast dtype, batches of equal and of ragged sizes."""

from itertools import product

import pytest
import torch

from divprune_hf.remote_code.max_min_fast import select_diverse_tokens_of_images
from tests.naive_max_min import is_greedy


pytestmark = pytest.mark.modeling

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
AUTOCAST_DTYPES = [torch.bfloat16, torch.float16]
# The numbers of tokens of the images of a batch: scaled all at once, or image by image where they are many.
SIZES = {
    "one": [40],
    "equal": [40, 40, 40],
    "ragged": [40, 7, 90],
    "one_token": [1, 1, 30],
    "padded_to_the_largest": [3, 200],
    "large_equal": [576, 576],
    "large_ragged": [576, 300, 577],
}
CASES = list(product(DTYPES, AUTOCAST_DTYPES, SIZES, ["raster", "selection"]))


def batch(sizes, dtype, width=80):
    """Features with duplicates and a zero row in each image of more than a few tokens."""
    generator = torch.Generator().manual_seed(sum(sizes))
    images = [torch.randn(size, width, generator=generator).to(dtype) for size in sizes]
    for image in images:
        if len(image) > 6:
            image[5], image[2] = image[1], 0
    return images, [max(1, len(image) // 4) for image in images]


@pytest.mark.parametrize(("dtype", "autocast_dtype", "sizes", "order"), CASES, ids=str)
def test_autocast_changes_no_pick(dtype, autocast_dtype, sizes, order):
    features, kept = batch(SIZES[sizes], dtype)
    alone = [select_diverse_tokens_of_images([image], [count], order)[0] for image, count in zip(features, kept)]
    with torch.autocast("cpu", dtype=autocast_dtype):
        together = select_diverse_tokens_of_images(features, kept, order)
    assert [picks.tolist() for picks in together] == [picks.tolist() for picks in alone]
    if order == "selection" and max(SIZES[sizes]) <= 90:  # the naive reference is slow
        assert all(is_greedy(image, picks.tolist(), tolerance=2e-6) for image, picks in zip(features, together))


def test_features_that_are_trained_are_selected_under_autocast():
    features, kept = batch(SIZES["ragged"], torch.float32)
    expected = select_diverse_tokens_of_images(features, kept)
    trained = [image.requires_grad_() for image in features]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert all(map(torch.equal, select_diverse_tokens_of_images(trained, kept), expected))
