"""Centred max-min against a naive float64 loop, on each of its paths, and where arithmetic gets awkward."""

import math
from contextlib import ExitStack
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from divprune_hf.remote_code import centered_fast, fast_distances, max_min_fast
from divprune_hf.remote_code.centered import pick_centered
from divprune_hf.remote_code.centered_fast import centered_picks
from divprune_hf.remote_code.selectors import Images
from tests.naive_max_min import exact_features, naive_weights_and_distances


pytestmark = pytest.mark.modeling
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
# How tokens are picked: from a matrix; from candidates, as of long videos; by blocks, as on a GPU (nothing is read).
PATHS = {
    "matrix": [],
    "lazy": [(max_min_fast, "LAZY_ABOVE", 0)],
    "not_read": [(module, "may_be_read", lambda features: False) for module in (centered_fast, fast_distances)],
    "blocks": [
        *((module, "may_be_read", lambda features: False) for module in (centered_fast, fast_distances, max_min_fast)),
        (max_min_fast, "LARGEST_MATRIX", {"cpu": 0}),
    ],
}


def pick(features, counts, path="matrix", order="selection"):
    """The picks of some images."""
    with ExitStack() as stack:
        for place, name, value in PATHS[path]:
            stack.enter_context(mock.patch.object(place, name, value))
        return centered_picks(Images(list(features), list(counts), list(features), order, 0))


def pick_one(features, count, path="matrix"):
    return pick([features], [count], path)[0].tolist()


def mixed(m, d=32, seed=0):
    """Features that share a direction, as an image's do."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(m, d, generator=generator) + torch.randn(d, generator=generator)


@pytest.mark.parametrize("path", PATHS)
@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    m=st.integers(2, 40),
    log_d=st.integers(2, 4),
    share=st.floats(0, 1),
    dtype=st.sampled_from(DTYPES),
)
def test_each_pick_is_the_best_that_the_ones_before_it_leave(path, seed, m, log_d, share, dtype):
    """In float64, to within the rounding of float32, which may break a tie otherwise."""
    features = exact_features(seed, m, 4**log_d, dtype)
    count = max(1, round(share * m))
    weights, distances = naive_weights_and_distances(features.double().tolist())
    for picks in (pick_centered(features, count).tolist(), pick_one(features, count, path)):
        assert len(set(picks)) == count
        for step, picked in enumerate(picks):
            left = [i for i in range(m) if i not in picks[:step]]
            value = {i: weights[i] * min(distances[i][j] for j in picks[:step] or range(m) if j != i) for i in left}
            assert value[picked] >= max(value.values()) - 2e-6


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("m", [2, 7, 64, 200])
def test_every_path_makes_the_picks_of_the_plain_file(path, dtype, m):
    features = mixed(m).to(dtype)
    assert pick_one(features, m // 2, path) == pick_centered(features, m // 2).tolist()
    assert sorted(pick_one(features, m, path)) == list(range(m))


def test_it_is_not_max_min_and_weights_and_centring_both_matter():
    features = mixed(64)
    centred = features - features.mean(0)
    picks = pick_one(features, 16)
    assert picks != max_min_fast.select_diverse_tokens(features, 16, "selection").tolist()
    assert picks != max_min_fast.select_diverse_tokens(centred, 16, "selection").tolist()
    assert picks != pick_one(features + 50 * torch.ones(32), 16)  # the weights are of tokens that are not centred


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_changes_no_pick(path, dtype):
    features = mixed(200).to(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        picks = pick_one(features, 60, path)
    assert picks == pick_one(features, 60)


@pytest.mark.parametrize("order", ["raster", "selection"])
def test_each_image_of_a_batch_is_selected_as_alone(order):
    images = [mixed(m, seed=m) for m in (40, 64, 64, 200, 64)]
    counts = [9, 20, 5, 33, 64]
    together = pick(images, counts, order=order)
    assert all(torch.equal(a, pick([image], [k], order=order)[0]) for a, image, k in zip(together, images, counts))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("value", [0.0, 1.0, 0.3, -7.25, 1e-30, 1e30], ids=str)
def test_constant_features_tie_and_the_lowest_indices_win(path, value):
    assert pick_one(torch.full((70, 33), value), 5, path) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("scale", [1e-42, 1e-38, 1e-20, 1e20, 1e37], ids=str)
def test_extreme_magnitudes_change_no_pick(path, scale):
    assert pick_one(mixed(70) * scale, 12, path) == pick_one(mixed(70), 12)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_bad_rows_come_last_and_change_nothing_for_the_others(path, bad):
    features = mixed(70)
    expected = pick_one(features, 70)
    with_bad = torch.cat([features[:10], torch.full((2, 32), 0.5), features[10:]])
    with_bad[10, 3], with_bad[11] = bad, bad
    picks = pick_one(with_bad, 72, path)
    assert [i - 2 * (i > 11) for i in picks[:70]] == expected and sorted(picks[70:]) == [10, 11]
    assert sorted(pick_one(torch.full((70, 8), bad), 70, path)) == list(range(70))


@pytest.mark.parametrize("path", PATHS)
def test_duplicates_are_picked_once_before_any_is_picked_again(path):
    features = mixed(80).repeat(2, 1)
    first = pick_one(features, 79, path)
    assert len({i % 80 for i in first}) == 79


@pytest.mark.parametrize("shape", [(60, 32), (7, 8)])
def test_nothing_is_read(shape):
    with FakeTensorMode():
        picks = pick([torch.randn(shape)] * 2, [5, 3])
        assert [len(indices) for indices in picks] == [5, 3]
