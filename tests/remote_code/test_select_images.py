"""A batch of images selected together: the picks of each image alone."""

from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from divprune_hf import select_diverse_tokens
from divprune_hf.remote_code import fast_distances as module
from divprune_hf.remote_code import max_min_fast
from divprune_hf.remote_code.fast_distances import cosine_distances, gram_matrices, row_statistics
from divprune_hf.remote_code.max_min_fast import select_diverse_tokens_of_images
from tests.helpers.devices import needs_cuda_build
from tests.helpers.ragged_batches import ragged_batch


pytestmark = pytest.mark.modeling


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    order=st.sampled_from(["raster", "selection"]),
    largest_batch=st.sampled_from([0, 10_000, 2**20]),  # apart, in parts, together
    scaled_together=st.sampled_from([0, 2**18]),
    columns=st.sampled_from([70, 144]),
    is_read=st.booleans(),
)
def test_each_image_of_a_batch_is_selected_as_alone(seed, order, largest_batch, scaled_together, columns, is_read):
    features, kept = ragged_batch(seed)
    with (
        mock.patch.dict(max_min_fast.LARGEST_BATCH, {"cpu": largest_batch}),
        mock.patch.multiple(module, SCALED_TOGETHER=scaled_together, COLUMNS=columns),
        mock.patch.object(module, "may_be_read", lambda features: is_read),
    ):
        expected = [select_diverse_tokens(image, count, order) for image, count in zip(features, kept)]
        assert all(map(torch.equal, select_diverse_tokens_of_images(features, kept, order), expected))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_rows_are_scaled_only_where_that_changes_a_distance(dtype):
    """A CPU reads how long rows are; where values may not be read all are scaled, to the same distances bit for bit."""
    features = [torch.randn(m, 96, generator=torch.Generator().manual_seed(m)).to(dtype) for m in (130, 130)]
    for scale in (2.0**-6, 1.0, 2.0**6):
        with mock.patch.object(module, "row_scale", side_effect=AssertionError):
            distances = cosine_distances([image * scale for image in features])
        with mock.patch.object(module, "may_be_read", lambda features: False):
            assert all(map(torch.equal, distances, cosine_distances([image * scale for image in features])))


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
@pytest.mark.skipif(not module.MULTIPLIES_HALVES_INTO_FLOAT32, reason="needs torch 2.8")
def test_one_more_image_costs_a_gpu_one_more_launch_of_the_distances():
    """The product. Launches are what so little arithmetic costs there."""

    def launches(num_images):
        features = [torch.randn(576, 64, device="cuda", dtype=torch.bfloat16) for _ in range(num_images)]
        with Launches() as with_torch:
            cosine_distances(features)
        with Launches() as before_triton:
            row_statistics(gram_matrices(features).diagonal(dim1=1, dim2=2))
        return with_torch.number, before_triton.number + 1

    with FakeTensorMode():
        assert [launches(num_images) for num_images in (2, 8, 32)] == [(28 + n, 18 + n) for n in (2, 8, 32)]


@pytest.mark.parametrize("order", ["raster", "selection"])
def test_batched_selection_compiles_without_graph_breaks(order):
    features = [torch.randn(m, 32, generator=torch.Generator().manual_seed(m)) for m in (60, 130, 7)]
    compiled = torch.compile(select_diverse_tokens_of_images, fullgraph=True, backend="aot_eager")
    expected = select_diverse_tokens_of_images(features, [9, 20, 7], order)
    assert all(map(torch.equal, compiled(features, [9, 20, 7], order), expected))


def test_images_of_one_size_go_together_within_memory(monkeypatch):
    monkeypatch.setitem(max_min_fast.LARGEST_BATCH, "cpu", 3 * 20**2)
    sizes = (300, 20, 30, 20, 20, 20, 30)
    features = [torch.randn(m, 16, generator=torch.Generator().manual_seed(i)) for i, m in enumerate(sizes)]
    groups = []

    def selected(images):
        groups.append(list(map(len, images)))
        return cosine_distances(images)

    with mock.patch.object(max_min_fast, "cosine_distances", selected):
        picks = select_diverse_tokens_of_images(features, [5] * len(sizes))
    assert groups == [[300], [20, 20, 20], [20], [30], [30]]
    assert all(torch.equal(row, select_diverse_tokens(image, 5)) for row, image in zip(picks, features))


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_picks_train_in_a_compiled_graph(backend):
    """Selection runs without autograd, and what it returns can be part of a graph that is differentiated."""
    features = torch.randn(60, 16, generator=torch.Generator().manual_seed(0), requires_grad=True)

    def loss(features):
        return features.index_select(0, select_diverse_tokens(features, 9)).pow(2).sum()

    runs = loss, torch.compile(loss, backend=backend)
    gradients = [torch.autograd.grad(run(features), features)[0] for run in runs]
    assert (gradients[0] != 0).any(1).sum() == 9 and torch.equal(*gradients)


def test_budgets_that_do_not_fit_the_images_are_refused():
    with pytest.raises(ValueError, match="2 budgets for 1 images"):
        select_diverse_tokens_of_images([torch.randn(4, 3)], [1, 2])
    with pytest.raises(ValueError, match=r"shape \(0, 3\)"):
        select_diverse_tokens_of_images([torch.randn(4, 3), torch.randn(0, 3)], [1, 2])
