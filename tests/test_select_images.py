"""A batch of images selected together: the picks of each image alone."""

from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ragged_batches import ragged_batch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from divprune_hf import select_diverse_tokens
from divprune_hf.remote_code import max_min_diversity
from divprune_hf.remote_code.cosine_distances import cosine_distances
from divprune_hf.remote_code.max_min_diversity import select_diverse_tokens_of_images


pytestmark = pytest.mark.modeling
# Fake tensors on a GPU need none, but a build of torch that knows what one is.
needs_cuda_build = pytest.mark.skipif(torch.version.cuda is None, reason="needs a CUDA build of torch")


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    order=st.sampled_from(["raster", "selection"]),
    largest_batch=st.sampled_from([0, 10_000, 2**20]),
)
def test_each_image_of_a_batch_is_selected_as_alone(seed, order, largest_batch):
    features, kept = ragged_batch(seed)
    expected = [select_diverse_tokens(image, count, order) for image, count in zip(features, kept)]
    with mock.patch.dict(max_min_diversity.LARGEST_BATCH, {"cpu": largest_batch}):  # apart, in parts, together
        assert all(map(torch.equal, select_diverse_tokens_of_images(features, kept, order), expected))


@pytest.mark.parametrize("order", ["raster", "selection"])
def test_budgets_are_clamped_to_each_image(order):
    features = [torch.randn(m, 8, generator=torch.Generator().manual_seed(m)) for m in (5, 30, 1)]
    picks = select_diverse_tokens_of_images(features, [9, 0, -1], order)
    assert [len(indices) for indices in picks] == [5, 1, 1]
    assert sorted(picks[0].tolist()) == list(range(5))


def test_no_images_are_no_picks():
    assert select_diverse_tokens_of_images([], []) == []


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_cuda_build)])
@pytest.mark.parametrize("order", ["raster", "selection"])
def test_batched_selection_never_waits_for_the_device(order, device):
    """A fake tensor has no values, wherever it is: reading one on the host raises."""
    with FakeTensorMode():
        features = [torch.randn(m, 32, device=device) for m in (60, 200, 7)]
        picks = select_diverse_tokens_of_images(features, [9, 20, 7], order)
        assert [(len(indices), indices.device.type) for indices in picks] == [(9, device), (20, device), (7, device)]


class Launches(TorchDispatchMode):
    """Counts the operations that launch something: all but views and requests for memory."""

    def __init__(self):
        super().__init__()
        self.number = 0

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        self.number += operator.namespace == "aten" and not operator.is_view and "empty" not in operator.name()
        return operator(*args, **(kwargs or {}))


@needs_cuda_build
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_one_more_image_costs_a_gpu_one_more_launch_of_the_distances(dtype):
    """The product. Launches are what so little arithmetic costs there."""

    def launches(num_images):
        features = [torch.randn(576, 64, device="cuda", dtype=dtype) for _ in range(num_images)]
        with Launches() as launched:
            cosine_distances(features)
        return launched.number

    with FakeTensorMode():
        assert launches(2) <= 30
        assert launches(32) == launches(2) + 30


@pytest.mark.parametrize("order", ["raster", "selection"])
def test_batched_selection_compiles_without_graph_breaks(order):
    features = [torch.randn(m, 32, generator=torch.Generator().manual_seed(m)) for m in (60, 130, 7)]
    compiled = torch.compile(select_diverse_tokens_of_images, fullgraph=True, backend="aot_eager")
    expected = select_diverse_tokens_of_images(features, [9, 20, 7], order)
    assert all(map(torch.equal, compiled(features, [9, 20, 7], order), expected))


def test_budgets_that_do_not_fit_the_images_are_refused():
    with pytest.raises(ValueError, match="2 budgets for 1 images"):
        select_diverse_tokens_of_images([torch.randn(4, 3)], [1, 2])
    with pytest.raises(ValueError, match=r"shape \(0, 3\)"):
        select_diverse_tokens_of_images([torch.randn(4, 3), torch.randn(0, 3)], [1, 2])
