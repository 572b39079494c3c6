"""The selection against a naive float64 double loop, and its behaviour where arithmetic gets awkward."""

import math
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from divprune_hf import select_diverse_tokens
from tests.helpers import warm_python
from tests.naive_max_min import exact_features, is_greedy, naive_max_min


pytestmark = pytest.mark.modeling
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    m=st.integers(2, 40),
    log_d=st.integers(0, 4),
    share=st.floats(0, 1),
    dtype=st.sampled_from(DTYPES),
    scale=st.sampled_from([2.0**-10, 1.0, 2.0**8]),
)
def test_picks_equal_the_naive_loop_where_distances_are_exact(seed, m, log_d, share, dtype, scale):
    features = exact_features(seed, m, 4**log_d, dtype) * scale
    k = max(1, round(share * m))
    expected = naive_max_min(features.double().tolist(), k)
    assert select_diverse_tokens(features, k, order="selection").tolist() == expected
    assert select_diverse_tokens(features, k).tolist() == sorted(expected)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    m=st.integers(1, 60),
    d=st.integers(1, 50),
    k=st.integers(-3, 70),
    dtype=st.sampled_from(DTYPES),
)
def test_any_features_give_distinct_ascending_indices_and_greedy_picks(seed, m, d, k, dtype):
    features = torch.randn(m, d, generator=torch.Generator().manual_seed(seed)).to(dtype)
    picks = select_diverse_tokens(features, k, order="selection")
    assert picks.dtype == torch.int64 and picks.shape == (min(max(k, 1), m),)
    assert len(set(picks.tolist())) == len(picks)
    assert select_diverse_tokens(features, k).tolist() == sorted(picks.tolist())
    if m > 1:
        assert is_greedy(features, picks.tolist(), tolerance=2e-6)


@pytest.mark.parametrize("d", [33, 5120])
@pytest.mark.parametrize("m", [1, 2, 6, 7, 16, 56, 64, 577])
@pytest.mark.parametrize("value", [0.0, 1.0, 0.3, -7.25, 1e-30, 1e30], ids=str)
def test_constant_features_tie_and_the_lowest_indices_win(m, d, value):
    features = torch.full((m, d), value)
    k = max(1, m // 3)
    assert select_diverse_tokens(features, k, order="selection").tolist() == list(range(k))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("d", [5, 64, 333, 4096])
def test_duplicates_are_picked_after_every_distinct_row(dtype, d):
    distinct = torch.randn(9, d, generator=torch.Generator().manual_seed(d)).to(dtype)
    features = distinct.repeat_interleave(torch.tensor([1, 5, 2, 1, 7, 3, 1, 4, 2]), dim=0)
    group = torch.arange(9).repeat_interleave(torch.tensor([1, 5, 2, 1, 7, 3, 1, 4, 2]))
    picks = select_diverse_tokens(features, 12, order="selection")
    # A row that has a double is never the first pick, and each group is represented before any is repeated.
    assert (group == group[picks[0]]).sum() == 1
    assert sorted(group[picks[:9]].tolist()) == list(range(9))
    # What is left are ties at distance 0: the lowest indices, in order.
    left = sorted(set(range(len(features))) - set(picks[:9].tolist()))
    assert picks[9:].tolist() == left[:3]


def test_scaled_copies_count_as_duplicates():
    row = torch.randn(16, generator=torch.Generator().manual_seed(0))
    features = torch.stack([row, row * 3, row * 0.7, torch.randn(16, generator=torch.Generator().manual_seed(1))])
    picks = select_diverse_tokens(features, 4, order="selection").tolist()
    assert picks[0] == 3
    assert picks[2] < picks[3]  # at distance 0 of what is picked: the lowest index first


def test_a_blank_image_in_half_precision_still_gives_distinct_indices():
    """The published loop returns 1 distinct index of 56 here."""
    generator = torch.Generator().manual_seed(0)
    features = (torch.randn(1, 1024, generator=generator) + 1e-3 * torch.randn(576, 1024, generator=generator)).half()
    assert len(set(select_diverse_tokens(features, 56).tolist())) == 56


def test_zero_rows_are_one_direction_of_their_own():
    features = exact_features(3, 20, 16)
    features[[4, 11, 12]] = 0
    expected = naive_max_min(features.double().tolist(), 20)
    assert select_diverse_tokens(features, 20, order="selection").tolist() == expected


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rows_that_are_not_finite_come_last_and_change_nothing_else(bad, dtype):
    features = exact_features(5, 24, 64, dtype)
    spoilt = features.clone()
    spoilt[[0, 7, 23], [3, 0, 63]] = bad
    rest = [i for i in range(24) if i not in (0, 7, 23)]
    expected = [rest[i] for i in naive_max_min(features[rest].double().tolist(), 21)]
    assert select_diverse_tokens(spoilt, 24, order="selection").tolist() == [*expected, 0, 7, 23]


def test_only_bad_rows_are_picked_in_order():
    assert select_diverse_tokens(torch.full((6, 4), math.nan), 4, order="selection").tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("scale", [1e-38, 1e-20, 1e20, 1e38], ids=str)
def test_extreme_magnitudes_change_no_pick(scale):
    features = exact_features(9, 30, 64)
    expected = select_diverse_tokens(features, 12)
    assert torch.equal(select_diverse_tokens(features * scale, 12), expected)
    mixed = features * torch.logspace(-30, 30, 30).unsqueeze(1)
    assert is_greedy(mixed.double(), select_diverse_tokens(mixed, 12, order="selection").tolist(), tolerance=2e-6)


def test_permuting_tokens_permutes_the_picks():
    """Features without ties: the order of the tokens must not matter."""
    features = torch.randn(200, 48, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    permutation = torch.randperm(200, generator=torch.Generator().manual_seed(3))
    picks = select_diverse_tokens(features, 40, order="selection")
    permuted = select_diverse_tokens(features[permutation], 40, order="selection")
    assert torch.equal(permutation[permuted], picks)


def test_autocast_and_matmul_precision_do_not_change_picks():
    features = torch.randn(576, 256, generator=torch.Generator().manual_seed(4))
    expected = select_diverse_tokens(features, 56, order="selection")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(select_diverse_tokens(features, 56, order="selection"), expected)
    torch.set_float32_matmul_precision("medium")
    try:
        under_medium = select_diverse_tokens(features, 56, order="selection")
    finally:
        torch.set_float32_matmul_precision("highest")
    assert is_greedy(features, under_medium.tolist(), tolerance=2e-6)


@pytest.mark.parametrize(
    ("setting", "dtype"),
    [
        ("pass", "float32"),
        ("torch.set_float32_matmul_precision('high')", "float64"),
        ("torch.backends.cuda.matmul.allow_tf32 = True", "float64"),
        ("torch.backends.cuda.matmul.fp32_precision = 'tf32'", "float64"),
        ("torch.backends.mkldnn.matmul.fp32_precision = 'bf16'", "float64"),
        ("torch.backends.mkldnn.matmul.fp32_precision = 'tf32'", "float64"),
        ("torch.backends.cudnn.conv.fp32_precision = 'tf32'", "float32"),
        ("torch.backends.fp32_precision = 'tf32'", "float64"),
        ("torch.backends.cuda.matmul.fp32_precision = 'ieee'", "float32"),
    ],
)
def test_distances_leave_float32_wherever_its_products_may_be_rounded(setting, dtype):
    """The settings are the process's, and the two ways to make them must not meet: each gets a process."""
    code = (
        "import torch\nfrom divprune_hf import select_diverse_tokens\n"
        "from divprune_hf.remote_code.fast_distances import distance_dtype\n"
        f"{setting}\nfeatures = torch.randn(70, 8)\nselect_diverse_tokens(features, 5)\n"
        "torch.compile(select_diverse_tokens, fullgraph=True, backend='aot_eager')(features, 3)\n"
        "print(distance_dtype(features), distance_dtype(features.bfloat16()))"
    )
    result = warm_python.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.split() == [f"torch.{dtype}", "torch.float32"], result.stderr[-2000:]


def test_half_precision_features_are_compared_in_float32():
    features = torch.randn(300, 512, generator=torch.Generator().manual_seed(6)).bfloat16()
    assert torch.equal(select_diverse_tokens(features, 30), select_diverse_tokens(features.double(), 30))


def test_selection_needs_no_gradient_and_leaves_its_input_alone():
    features = torch.randn(50, 8, requires_grad=True)
    before = features.detach().clone()
    picks = select_diverse_tokens(features, 10)
    assert not picks.requires_grad and torch.equal(features, before)


@pytest.mark.parametrize("order", ["raster", "selection"])
def test_selection_never_waits_for_the_device(order):
    """A fake tensor has no values: reading one on the host raises."""
    with FakeTensorMode():
        assert select_diverse_tokens(torch.randn(60, 32), 9, order).shape == (9,)


@pytest.mark.parametrize("order", ["raster", "selection"])
def test_selection_compiles_without_graph_breaks(order):
    features = torch.randn(60, 32, generator=torch.Generator().manual_seed(7))
    compiled = torch.compile(select_diverse_tokens, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(features, 9, order), select_diverse_tokens(features, 9, order))


@pytest.mark.parametrize(
    ("features", "order", "message"),
    [
        (torch.randn(2, 3, 4), "raster", r"shape \(2, 3, 4\)"),
        (torch.randn(0, 4), "raster", "at least one token"),
        (torch.ones(3, 4, dtype=torch.int64), "raster", "floating point"),
        (torch.randn(3, 4), "random", "order='random'"),
    ],
    ids=["three axes", "no token", "integers", "unknown order"],
)
def test_features_that_cannot_be_compared_are_refused(features, order, message):
    with pytest.raises(ValueError, match=message):
        select_diverse_tokens(features, 2, order)
