"""A batch of images selected together: the picks of each image alone."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ragged_batches import ragged_batch
from torch._subclasses.fake_tensor import FakeTensorMode

from divprune_hf import select_diverse_tokens
from divprune_hf.remote_code.cosine_distances import padded_cosine_distances
from divprune_hf.remote_code.max_min_diversity import pick_greedily, select_diverse_tokens_of_images


pytestmark = pytest.mark.modeling


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**16), order=st.sampled_from(["raster", "selection"]))
def test_each_image_of_a_batch_is_selected_as_alone(seed, order):
    features, kept = ragged_batch(seed)
    expected = [select_diverse_tokens(image, count, order) for image, count in zip(features, kept)]
    assert all(map(torch.equal, select_diverse_tokens_of_images(features, kept, order), expected))


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**16))
def test_padding_changes_no_pick(seed):
    """What a GPU does without Triton, on a CPU."""
    features, kept = ragged_batch(seed)
    picks = pick_greedily(*padded_cosine_distances(features), max(kept))
    expected = [select_diverse_tokens(image, count, "selection") for image, count in zip(features, kept)]
    assert all(torch.equal(row[: len(indices)], indices) for row, indices in zip(picks, expected))


@pytest.mark.parametrize("order", ["raster", "selection"])
def test_budgets_are_clamped_to_each_image(order):
    features = [torch.randn(m, 8, generator=torch.Generator().manual_seed(m)) for m in (5, 30, 1)]
    picks = select_diverse_tokens_of_images(features, [9, 0, -1], order)
    assert [len(indices) for indices in picks] == [5, 1, 1]
    assert sorted(picks[0].tolist()) == list(range(5))


def test_no_images_are_no_picks():
    assert select_diverse_tokens_of_images([], []) == []


@pytest.mark.parametrize("order", ["raster", "selection"])
def test_batched_selection_never_waits_for_the_device(order):
    with FakeTensorMode():
        features = [torch.randn(m, 32) for m in (60, 200, 7)]
        assert [len(picks) for picks in select_diverse_tokens_of_images(features, [9, 20, 7], order)] == [9, 20, 7]
        assert pick_greedily(*padded_cosine_distances(features), 20).shape == (3, 20)


@pytest.mark.parametrize("order", ["raster", "selection"])
def test_batched_selection_compiles_without_graph_breaks(order):
    features = [torch.randn(m, 32, generator=torch.Generator().manual_seed(m)) for m in (60, 130, 7)]
    compiled = torch.compile(select_diverse_tokens_of_images, fullgraph=True, backend="aot_eager")
    expected = select_diverse_tokens_of_images(features, [9, 20, 7], order)
    assert all(map(torch.equal, compiled(features, [9, 20, 7], order), expected))


def test_padded_selection_compiles_without_graph_breaks():
    features = [torch.randn(m, 32, generator=torch.Generator().manual_seed(m)) for m in (60, 130, 7)]

    def pick(features):
        return pick_greedily(*padded_cosine_distances(features), 20)

    compiled = torch.compile(pick, fullgraph=True, backend="aot_eager")
    picks, expected = compiled(features), pick(features)
    assert all(torch.equal(row[:count], other[:count]) for row, other, count in zip(picks, expected, (20, 20, 7)))


def test_budgets_that_do_not_fit_the_images_are_refused():
    with pytest.raises(ValueError, match="2 budgets for 1 images"):
        select_diverse_tokens_of_images([torch.randn(4, 3)], [1, 2])
    with pytest.raises(ValueError, match=r"shape \(0, 3\)"):
        select_diverse_tokens_of_images([torch.randn(4, 3), torch.randn(0, 3)], [1, 2])
