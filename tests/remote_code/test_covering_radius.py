"""The covering radius against a naive float64 double loop, and what `select_image_tokens` returns of it."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from divprune_hf import select_diverse_tokens
from divprune_hf.remote_code.covering_radius import covering_radius
from tests.helpers.tiny_answers import load
from tests.naive_max_min import naive_distance


pytestmark = pytest.mark.modeling
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def naive_radius(features, picks):
    rows = features.double().tolist()
    dropped = set(range(len(rows))) - set(picks)
    return max((min(naive_distance(rows[i], rows[j]) for j in picks) for i in dropped), default=0.0)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    m=st.integers(1, 90),
    d=st.integers(1, 40),
    share=st.floats(0, 1),
    dtype=st.sampled_from(DTYPES),
    scale=st.sampled_from([1e-30, 1.0, 1e30]),
)
def test_it_is_the_largest_distance_of_a_dropped_token_to_its_nearest_kept_one(seed, m, d, share, dtype, scale):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(m, d, generator=generator)
    features[:: max(1, m // 3)] = 0  # zero rows are alike, and at 1 of all others
    features = (features * (scale if dtype in (torch.float32, torch.float64) else 1)).to(dtype)
    picks = torch.randperm(m, generator=generator)[: max(1, round(share * m))]
    radius = covering_radius(features, picks)
    assert radius.shape == () and float(radius) == pytest.approx(naive_radius(features, picks.tolist()), abs=2e-6)


def test_it_is_what_the_next_pick_would_be_far_from_the_others():
    features = torch.randn(60, 32, generator=torch.Generator().manual_seed(0))
    picks = select_diverse_tokens(features, 20, "selection")
    nearest = [naive_distance(features[picks[19]].tolist(), features[i].tolist()) for i in picks[:19]]
    assert float(covering_radius(features, picks[:19])) == pytest.approx(min(nearest), abs=1e-6)


def test_all_tokens_leave_nothing_to_cover_and_bad_ones_are_far_from_all():
    features = torch.randn(9, 4)
    assert covering_radius(features, None) == covering_radius(features, torch.arange(9)) == 0
    features[3, 1] = math.nan
    assert covering_radius(features, torch.tensor([0, 1])) == math.inf


def test_a_model_returns_it_for_each_image(case):
    model, processor = load(case.checkpoint)
    inputs = case.inputs(processor, num_tokens=7)
    names = ("pixel_values", "image_sizes", "num_image_tokens_kept")
    given_inputs = {name: inputs[name] for name in names if name in inputs}
    picks, radii = model.select_image_tokens(**given_inputs, return_radius=True)
    assert all(map(torch.equal, picks, model.select_image_tokens(**given_inputs)))
    everything = {**given_inputs, "num_image_tokens_kept": torch.tensor(processor.count_image_tokens(inputs))}
    all_features = model.model.get_image_features(**everything)
    all_features = getattr(all_features, "pooler_output", all_features)
    expected = [naive_radius(features, kept.tolist()) for features, kept in zip(all_features, picks)]
    assert radii.tolist() == pytest.approx(expected, abs=1e-5) and min(expected) > 0
    assert model.select_image_tokens(**everything, return_radius=True)[1].tolist() == [0] * len(picks)


def test_a_model_returns_it_for_each_video(make_checkpoint):
    pytest.importorskip("torchvision", reason="the processor of videos needs it")
    model, _ = load(make_checkpoint(family="llava_next_video"))
    pixels = torch.randn(2, 4, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    picks, radii = model.select_video_tokens(pixels, torch.tensor([5, 36]), return_radius=True)
    all_features = model.model.get_video_features(pixels, num_video_tokens_kept=torch.tensor([36, 36]))
    all_features = getattr(all_features, "pooler_output", all_features)
    features = all_features[0].reshape(36, -1)
    assert [len(indices) for indices in picks] == [5, 36]
    assert radii.tolist() == pytest.approx([naive_radius(features, picks[0].tolist()), 0], abs=1e-5) and radii[0] > 0
