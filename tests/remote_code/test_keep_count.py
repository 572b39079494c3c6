"""How many tokens a budget keeps, and which budgets are refused."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from divprune_hf import keep_count


pytestmark = pytest.mark.modeling


@settings(max_examples=200, deadline=None)
@given(m=st.integers(1, 5000), ratio=st.floats(0, 1, exclude_min=True))
def test_keep_count_rounds_as_the_paper_says(m, ratio):
    assert keep_count(m, retention_ratio=ratio) == min(max(1, round(ratio * m)), m)


@pytest.mark.parametrize(
    ("m", "budget", "expected"),
    [
        (576, {"retention_ratio": 0.098}, 56),
        (5, {"retention_ratio": 0.5}, 2),
        (7, {"retention_ratio": 0.5}, 4),
        (576, {"retention_ratio": 1}, 576),
        (576, {"retention_ratio": np.float32(0.5)}, 288),
        (36, {"num_tokens": 64}, 36),
        (576, {"num_tokens": np.int64(64)}, 64),
    ],
)
def test_keep_count_of_known_budgets(m, budget, expected):
    assert keep_count(m, **budget) == expected


@pytest.mark.parametrize("ratio", [0, 0.0, -0.1, 1.01, math.nan, math.inf, "0.5", True, [0.5]], ids=repr)
def test_an_impossible_ratio_is_refused(ratio):
    with pytest.raises(ValueError, match="retention_ratio"):
        keep_count(576, retention_ratio=ratio)


@pytest.mark.parametrize("num_tokens", [0, -1, 2.5, "64", True, math.nan], ids=repr)
def test_an_impossible_number_is_refused(num_tokens):
    with pytest.raises(ValueError, match="num_tokens"):
        keep_count(576, num_tokens=num_tokens)


@pytest.mark.parametrize("budget", [{}, {"retention_ratio": 0.5, "num_tokens": 3}], ids=["none", "both"])
def test_one_budget_is_expected(budget):
    with pytest.raises(ValueError, match=r"retention_ratio.*num_tokens"):
        keep_count(576, **budget)
