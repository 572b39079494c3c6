"""The selection without a matrix of all distances: the picks of the matrix, in little memory."""

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
from divprune_hf.remote_code import max_min_fast, max_min_long
from tests.naive_max_min import exact_features, naive_max_min


pytestmark = pytest.mark.modeling
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def select_by_blocks(features, num_tokens, order="selection", rows_per_block=64, rows_per_read=7):
    """`select_diverse_tokens` as it selects from long videos, with blocks small enough for small inputs."""
    with (
        mock.patch.dict(max_min_fast.LARGEST_MATRIX, {"cpu": 0}),
        mock.patch.object(max_min_long, "ROWS_PER_BLOCK", rows_per_block),
        mock.patch.dict(max_min_long.ENTRIES_PER_BLOCK, {"cpu": rows_per_read * features.shape[1]}),
    ):
        return select_diverse_tokens(features, num_tokens, order)


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


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("noise", [1.0, 0.03], ids=["different frames", "frames like each other"])
@pytest.mark.parametrize("seed", [0, 1])
def test_picks_part_only_where_two_candidates_are_equally_far(seed, noise, dtype):
    generator = torch.Generator().manual_seed(seed)
    frame = torch.randn(144, 1024, generator=generator) + 0.5
    video = (frame + noise * torch.randn(8, 144, 1024, generator=generator)).flatten(0, 1).to(dtype)
    picks = select_by_blocks(video, 115, rows_per_block=200, rows_per_read=64)
    assert len(set(picks.tolist())) == 115
    check_first_difference(video, picks, select_diverse_tokens(video, 115, "selection"))


@pytest.mark.parametrize("d", [33, 5120])
@pytest.mark.parametrize("m", [1, 2, 7, 64, 200, 577])
@pytest.mark.parametrize("value", [0.0, 1.0, 0.3, -7.25, 1e-30, 1e30], ids=str)
def test_constant_features_tie_and_the_lowest_indices_win(m, d, value):
    picks = select_by_blocks(torch.full((m, d), value), max(1, m // 3))
    assert picks.tolist() == list(range(max(1, m // 3)))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("d", [5, 64, 333, 4096])
def test_duplicates_are_picked_after_every_distinct_row(dtype, d):
    copies = torch.tensor([1, 50, 2, 1, 70, 3, 1, 40, 2])
    distinct = torch.randn(9, d, generator=torch.Generator().manual_seed(d)).to(dtype)
    group = torch.arange(9).repeat_interleave(copies)
    picks = select_by_blocks(distinct[group], 12)
    assert copies[group[picks[0]]] == 1
    assert sorted(group[picks[:9]].tolist()) == list(range(9))
    left = sorted(set(range(len(group))) - set(picks[:9].tolist()))
    assert picks[9:].tolist() == left[:3]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rows_that_are_not_finite_come_last_and_change_nothing_else(bad, dtype):
    features = exact_features(5, 24, 64, dtype)
    features[[0, 7, 23], [3, 0, 63]] = bad
    rest = [i for i in range(24) if i not in (0, 7, 23)]
    expected = [rest[i] for i in naive_max_min(features[rest].double().tolist(), 21)]
    assert select_by_blocks(features, 24, rows_per_block=8).tolist() == [*expected, 0, 7, 23]


@pytest.mark.parametrize("scale", [1e-38, 1e-20, 1e20, 1e38], ids=str)
def test_extreme_magnitudes_change_no_pick(scale):
    features = exact_features(9, 130, 64)
    assert torch.equal(select_by_blocks(features * scale, 12), select_diverse_tokens(features, 12, "selection"))


def test_autocast_and_matmul_precision_do_not_change_picks():
    features = torch.randn(576, 256, generator=torch.Generator().manual_seed(4))
    expected = select_by_blocks(features, 56, rows_per_block=200)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(select_by_blocks(features, 56, rows_per_block=200), expected)
    torch.set_float32_matmul_precision("medium")
    try:
        check_first_difference(features, select_by_blocks(features, 56, rows_per_block=200), expected)
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_a_long_video_is_selected_in_less_memory_than_the_matrix_takes():
    """A process of its own, because the peak of a process never falls. The matrix alone would take 310 MiB."""
    code = (
        "import torch\n"
        "from divprune_hf import select_diverse_tokens\n"
        "from divprune_hf.remote_code.max_min_fast import LARGEST_MATRIX\n"
        "def peak_mib(): return int(open('/proc/self/status').read().split('VmHWM:')[1].split()[0]) // 1024\n"
        "select_diverse_tokens(torch.randn(600, 256), 60)\n"
        "features = torch.randn(9000, 256)\n"
        "assert len(features) ** 2 > LARGEST_MATRIX['cpu']\n"
        "before = peak_mib()\n"
        "assert len(set(select_diverse_tokens(features, 200).tolist())) == 200\n"
        "print(peak_mib() - before)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert int(result.stdout) < 60, result.stderr[-2000:]
