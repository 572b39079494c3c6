"""The selections without a matrix of all distances: the picks of the matrix, in little memory.

Lazily where values can be read, on a CPU, and block by block elsewhere.
"""

import math
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from divprune_hf import select_diverse_tokens
from divprune_hf.remote_code import max_min_fast, max_min_lazy, max_min_long
from divprune_hf.remote_code.max_min import pick_max_min
from tests.naive_max_min import exact_features, float64_distances, naive_max_min


pytestmark = pytest.mark.modeling
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def select_by_blocks(features, num_tokens, order="selection", rows_per_block=64, rows_per_read=7):
    """`select_diverse_tokens` as it selects from long videos on a GPU, with blocks small enough for small inputs."""
    with (
        mock.patch.dict(max_min_fast.LARGEST_MATRIX, {"cpu": 0}),
        mock.patch.object(max_min_fast, "may_be_read", lambda features: False),
        mock.patch.object(max_min_long, "ROWS_PER_BLOCK", rows_per_block),
        mock.patch.dict(max_min_long.ENTRIES_PER_BLOCK, {"cpu": rows_per_read * features.shape[1]}),
    ):
        return select_diverse_tokens(features, num_tokens, order)


def select_lazily(features, num_tokens, order="selection", rows_per_block=64, num_candidates=7, **sizes):
    """`select_diverse_tokens` as it selects from long videos on a CPU, with parts small enough for small inputs."""
    sizes = {"NUM_CANDIDATES": num_candidates, "NUM_CERTAIN": 5, "ROWS_IN_PLACE": 2 * rows_per_block, **sizes}
    with (
        mock.patch.object(max_min_fast, "LAZY_ABOVE", 0),
        mock.patch.multiple(max_min_lazy, ROWS_PER_BLOCK=rows_per_block, **sizes),
    ):
        return select_diverse_tokens(features, num_tokens, order)


both_ways = pytest.mark.parametrize("select", [select_by_blocks, select_lazily])


def check_first_difference(features, picks, expected):
    """Where two orders of picking part, the two candidates are equally far from the picks before, to within 1e-6."""
    parted = (picks != expected).nonzero().flatten().tolist()
    if not parted:
        return
    step = parted[0]
    unit = torch.nn.functional.normalize(features.double())
    candidates = torch.stack([picks[step], expected[step]])
    distances = 1 - unit[candidates] @ unit.T
    if step == 0:
        distances[[0, 1], candidates] = math.inf
        smallest = distances.amin(dim=1)
    else:
        smallest = distances[:, expected[:step]].amin(dim=1)
    assert (smallest[0] - smallest[1]).abs() < 1e-6


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    m=st.integers(2, 200),
    log_d=st.integers(0, 4),
    share=st.floats(0, 1),
    dtype=st.sampled_from(DTYPES),
    rows_per_block=st.integers(1, 210),
    rows_per_read=st.integers(1, 210),
)
def test_picks_are_those_of_the_matrix_where_distances_are_exact(
    seed, m, log_d, share, dtype, rows_per_block, rows_per_read
):
    features = exact_features(seed, m, 4**log_d, dtype)
    features[features.new_empty(m).bernoulli_(0.1, generator=torch.Generator().manual_seed(seed)) > 0] = 0
    k = max(1, round(share * m))
    picks = select_by_blocks(features, k, "selection", rows_per_block, rows_per_read)
    assert torch.equal(picks, select_diverse_tokens(features, k, "selection"))
    assert torch.equal(select_by_blocks(features, k, "raster", rows_per_block, rows_per_read), picks.sort().values)


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    m=st.integers(1, 200),
    log_d=st.integers(0, 4),
    share=st.floats(0, 1),
    dtype=st.sampled_from(DTYPES),
    bad=st.sampled_from([math.nan, math.inf, -math.inf]),
    rows_per_block=st.integers(64, 210),
    sizes=st.fixed_dictionaries(
        {
            "num_candidates": st.integers(1, 210),
            "NUM_CERTAIN": st.integers(1, 70),
            "NUM_PARTS": st.integers(1, 5),
            "LARGEST_RACE": st.floats(0, 1),
        }
    ),
)
def test_lazy_picks_are_those_of_the_matrix_where_distances_are_exact(
    seed, m, log_d, share, dtype, bad, rows_per_block, sizes
):
    features, k = exact_features(seed, m, 4**log_d, dtype), max(1, round(share * m))
    generator = torch.Generator().manual_seed(seed)
    features[torch.empty(m).bernoulli_(0.1, generator=generator) > 0] = 0
    features[torch.empty(m).bernoulli_(0.1, generator=generator) > 0, 0] = bad
    picks = select_lazily(features, k, "selection", rows_per_block, **sizes)
    assert torch.equal(picks, pick_max_min(features, k))
    assert torch.equal(select_lazily(features, k, "raster", rows_per_block, **sizes), picks.sort().values)


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    m=st.integers(2, 150),
    log_d=st.integers(0, 3),
    share=st.floats(0, 1),
    num_candidates=st.integers(1, 160),
    largest_race=st.sampled_from([0.0, 2.0]),
)
def test_lazy_picks_by_weight_are_those_of_a_plain_loop(seed, m, log_d, share, num_candidates, largest_race):
    features, k = exact_features(seed, m, 4**log_d), max(1, round(share * m))
    weights = torch.randint(0, 4, (m,), generator=torch.Generator().manual_seed(seed)) / 4  # exact, with ties
    sizes = {"NUM_CANDIDATES": num_candidates, "NUM_CERTAIN": 3, "LARGEST_RACE": largest_race}
    with mock.patch.multiple(max_min_lazy, **sizes):
        picks = max_min_lazy.pick_lazily(features, k, weights)
    assert picks.tolist() == weighed_picks(features, k, weights)


def test_a_weight_of_zero_leaves_distances_to_rows_that_are_not_finite():
    rows = max_min_lazy.AllRows(torch.eye(2), weights=torch.tensor([0.0, 0.5]))
    assert rows.weighed(torch.tensor([math.inf, math.inf]), slice(None)).tolist() == [math.inf, math.inf]
    assert rows.weighed(torch.tensor([2.0, 2.0]), slice(None)).tolist() == [0.0, 1.0]


def weighed_picks(features, num_kept, weights):
    """The largest product of weight and smallest distance, one after another; the lowest index of equal ones."""
    distances = float64_distances(features).tolist()
    weights, rows = weights.tolist(), range(len(features))
    nearest = [weights[i] * min(distances[i][j] for j in rows if j != i) for i in rows]
    picks = [max(rows, key=lambda i: (nearest[i], -i))]
    while len(picks) < num_kept:
        value = {i: weights[i] * min(distances[i][j] for j in picks) for i in rows if i not in picks}
        picks.append(max(value, key=lambda i: (value[i], -i)))
    return picks


@both_ways
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("noise", [1.0, 0.03], ids=["different frames", "frames like each other"])
@pytest.mark.parametrize("seed", [0, 1])
def test_picks_part_only_where_two_candidates_are_equally_far(seed, noise, dtype, select):
    generator = torch.Generator().manual_seed(seed)
    frame = torch.randn(144, 1024, generator=generator) + 0.5
    video = (frame + noise * torch.randn(8, 144, 1024, generator=generator)).flatten(0, 1).to(dtype)
    picks = select(video, 115, rows_per_block=200)
    assert len(set(picks.tolist())) == 115
    check_first_difference(video, picks, select_diverse_tokens(video, 115, "selection"))


@both_ways
@pytest.mark.parametrize("d", [33, 5120])
@pytest.mark.parametrize("m", [1, 2, 7, 64, 200, 577])
@pytest.mark.parametrize("value", [0.0, 1.0, 0.3, -7.25, 1e-30, 1e30], ids=str)
def test_constant_features_tie_and_the_lowest_indices_win(m, d, value, select):
    picks = select(torch.full((m, d), value), max(1, m // 3))
    assert picks.tolist() == list(range(max(1, m // 3)))


@both_ways
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("d", [5, 64, 333, 4096])
def test_duplicates_are_picked_after_every_distinct_row(dtype, d, select):
    copies = torch.tensor([1, 50, 2, 1, 70, 3, 1, 40, 2])
    distinct = torch.randn(9, d, generator=torch.Generator().manual_seed(d)).to(dtype)
    group = torch.arange(9).repeat_interleave(copies)
    picks = select(distinct[group], 12)
    assert copies[group[picks[0]]] == 1
    assert sorted(group[picks[:9]].tolist()) == list(range(9))
    left = sorted(set(range(len(group))) - set(picks[:9].tolist()))
    assert picks[9:].tolist() == left[:3]


@both_ways
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rows_that_are_not_finite_come_last_and_change_nothing_else(bad, dtype, select):
    features = exact_features(5, 24, 64, dtype)
    features[[0, 7, 23], [3, 0, 63]] = bad
    rest = [i for i in range(24) if i not in (0, 7, 23)]
    expected = [rest[i] for i in naive_max_min(features[rest].double().tolist(), 21)]
    assert select(features, 24, rows_per_block=8).tolist() == [*expected, 0, 7, 23]


@pytest.mark.parametrize("scale", [1e-38, 1e-20, 1e20, 1e38], ids=str)
def test_extreme_magnitudes_change_no_pick(scale):
    features = exact_features(9, 130, 64)
    assert torch.equal(select_by_blocks(features * scale, 12), select_diverse_tokens(features, 12, "selection"))


@both_ways
@pytest.mark.parametrize("exponent", [-126, -60, -30, 30, 60, 120])
def test_powers_of_two_change_no_pick(exponent, select):
    """Each row by its own: exact, and far from what float32 can square."""
    features = torch.randn(130, 64, generator=torch.Generator().manual_seed(1))
    scale = 2.0 ** (exponent + torch.arange(130) % 3).unsqueeze(1)
    assert torch.equal(select(features * scale, 30), select(features, 30))
    assert torch.equal(select(exact_features(9, 130, 64) * scale, 30), select(exact_features(9, 130, 64), 30))


@both_ways
def test_autocast_and_matmul_precision_do_not_change_picks(select):
    features = torch.randn(576, 256, generator=torch.Generator().manual_seed(4))
    expected = select(features, 56, rows_per_block=200)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(select(features, 56, rows_per_block=200), expected)
    torch.set_float32_matmul_precision("medium")
    try:
        check_first_difference(features, select(features, 56, rows_per_block=200), expected)
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_a_long_video_is_selected_in_less_memory_than_the_matrix_takes():
    """A process of its own, because the peak of a process never falls. The matrix alone would take 310 MiB."""
    code = (
        "import torch\n"
        "from divprune_hf import select_diverse_tokens\n"
        "from divprune_hf.remote_code.max_min_fast import LAZY_ABOVE\n"
        "def peak_mib(): return int(open('/proc/self/status').read().split('VmHWM:')[1].split()[0]) // 1024\n"
        "select_diverse_tokens(torch.randn(600, 256), 60)\n"
        "features = torch.randn(9000, 256)\n"
        "assert len(features) > LAZY_ABOVE\n"
        "before = peak_mib()\n"
        "assert len(set(select_diverse_tokens(features, 200).tolist())) == 200\n"
        "print(peak_mib() - before)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert int(result.stdout) < 60, result.stderr[-2000:]
