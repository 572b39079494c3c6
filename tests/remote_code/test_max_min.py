"""The method in plain torch against a naive float64 loop, and the fast paths against the method."""

import ast
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from divprune_hf.remote_code import max_min
from divprune_hf.remote_code.max_min import pick_max_min
from divprune_hf.remote_code.max_min_fast import select_diverse_tokens_of_images
from divprune_hf.remote_code.max_min_long import pick_by_blocks
from tests.naive_max_min import exact_features, is_greedy, naive_max_min


pytestmark = pytest.mark.modeling
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
SOURCE = Path(max_min.__file__)


WIDTHS = st.sampled_from([4, 16, 64])  # powers of 4: distances are exact
KINDS = st.sampled_from(DTYPES)


@st.composite
def exact_images(draw, most_tokens=40, width=WIDTHS, dtype=KINDS):
    """Features whose distances are exact, with repeated and zero rows among them, and how many to keep."""
    m = draw(st.integers(1, most_tokens))
    features = exact_features(draw(st.integers(0, 2**16)), m, draw(width), draw(dtype))
    features = features[torch.tensor(draw(st.lists(st.integers(0, m - 1), min_size=m, max_size=m)))]
    features[torch.tensor(draw(st.lists(st.booleans(), min_size=m, max_size=m))) & (torch.arange(m) % 3 == 0)] = 0
    return features, draw(st.integers(1, m))


@settings(max_examples=80, deadline=None)
@given(image=exact_images())
def test_picks_are_those_of_the_naive_loop(image):
    features, num_kept = image
    assert pick_max_min(features, num_kept).tolist() == naive_max_min(features.double().tolist(), num_kept)


@settings(max_examples=80, deadline=None)
@given(data=st.data(), width=WIDTHS, dtype=KINDS)
def test_the_fast_path_picks_the_same(data, width, dtype):
    batch = st.lists(exact_images(width=st.just(width), dtype=st.just(dtype)), min_size=1, max_size=4)
    features, counts = (list(values) for values in zip(*data.draw(batch)))
    picks = select_diverse_tokens_of_images(features, counts, "selection")
    expected = [pick_max_min(image, count) for image, count in zip(features, counts)]
    assert [p.tolist() for p in picks] == [p.tolist() for p in expected]


@settings(max_examples=40, deadline=None)
@given(image=exact_images(most_tokens=120))
def test_the_long_path_picks_the_same(image):
    features, num_kept = image
    assert pick_by_blocks(features, num_kept).tolist() == pick_max_min(features, num_kept).tolist()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf], ids=str)
def test_bad_rows_come_last(bad):
    features = exact_features(5, 24, 64)
    features[[0, 7, 23], [3, 0, 63]] = bad
    assert pick_max_min(features, 24)[21:].tolist() == [0, 7, 23]
    picks = select_diverse_tokens_of_images([features], [24], "selection")[0]
    assert pick_max_min(features, 24).tolist() == picks.tolist()
    assert pick_max_min(torch.full((3, 4), bad), 3).tolist() == [0, 1, 2]


@pytest.mark.parametrize("scale", [1e-38, 1.0, 1e38], ids=str)
def test_any_features_give_greedy_picks(scale):
    features = torch.randn(60, 48, generator=torch.Generator().manual_seed(1)) * scale
    picks = pick_max_min(features, 20).tolist()
    assert is_greedy(features.double() / scale, picks, tolerance=1e-6) and len(set(picks)) == 20


def test_the_method_imports_torch_alone_and_is_read_in_a_minute():
    tree = ast.parse(SOURCE.read_text())
    imports = [node for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom))]
    assert [ast.unparse(node) for node in imports] == ["import torch"]
    assert len(SOURCE.read_text().splitlines()) <= 75
