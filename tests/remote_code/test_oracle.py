"""The oracle's answers in every family; and that a seam broken on purpose gives others."""

import pytest
import torch

from divprune_hf.remote_code.pruning_divprune import DivPruneModelMixin
from tests.helpers.oracle import assert_answers_as_the_oracle, uneven_rows
from tests.helpers.tiny_answers import load


pytestmark = pytest.mark.modeling


def first_tokens(picks):
    return [torch.arange(len(kept)) for kept in picks]


def two_swapped(picks):
    return [torch.cat([kept[-1:], kept[1:-1], kept[:1]]) for kept in picks]


def reversed_order(picks):
    return [kept.flip(0) for kept in picks]


def another_token(picks):
    return [torch.cat([kept[:-1], kept[-1:] + (1 if kept[-1] == 0 else -1)]) for kept in picks]


def counts_of_the_next_row(picks):
    """One image gives a token less, the next one more: the total fits."""
    first, second = picks
    return [first[:-1], torch.cat([second, second[-1:]])]


def images_of_the_next_row(picks):
    """Each image is pruned by the picks of the other, as many of them as it keeps."""
    first, second = picks
    return [second[: len(first)], torch.cat([first, second[len(first) - len(second) :]])]


MUTATIONS = [first_tokens, two_swapped, reversed_order, another_token, counts_of_the_next_row, images_of_the_next_row]


def test_every_family_answers_as_the_oracle(case):
    assert_answers_as_the_oracle(case, *load(case.checkpoint))


def test_rows_of_the_oracles_batch_differ(case):
    """Or mutations that mix up rows would change nothing."""
    _, processor = load(case.checkpoint)
    inputs = uneven_rows(case, processor)
    assert inputs["num_image_tokens_kept"].tolist() == [5, 7] and inputs["attention_mask"].min() == 0
    if "num_video_tokens_kept" in inputs:
        assert inputs["num_video_tokens_kept"].tolist() == [8, 6]


@pytest.fixture(params=MUTATIONS, ids=lambda mutation: mutation.__name__)
def broken_seam(request, monkeypatch):
    """Break the seam on purpose: other tokens are kept than those that were picked."""
    select = DivPruneModelMixin._select

    def broken(self, *arguments):
        return request.param(select(self, *arguments))

    monkeypatch.setattr(DivPruneModelMixin, "_select", broken)


def test_the_oracle_notices_a_broken_seam(case, broken_seam):
    with pytest.raises((AssertionError, IndexError)):  # one image has fewer tokens than the other
        assert_answers_as_the_oracle(case, *load(case.checkpoint))
