"""Budgets of a start and of a request, as vLLM and then we merge them; starts whose settings would have no effect."""

import pytest
from transformers import AutoConfig, AutoProcessor

from divprune_hf.engines.vllm_budgets import check_start, with_budget_of_request


@pytest.mark.parametrize(
    ("start", "request_", "expected"),
    [
        ({"num_tokens": 9}, {"retention_ratio": 0.5}, {"retention_ratio": 0.5}),
        ({"retention_ratio": 0.5}, {"num_tokens": 9}, {"num_tokens": 9}),
        ({"num_tokens": 9}, {"num_tokens": 7}, {"num_tokens": 7}),
        ({"num_tokens": 9}, {}, {"num_tokens": 9}),
        (
            {"num_tokens": 9, "do_resize": False},
            {"do_pad": True},
            {"num_tokens": 9, "do_resize": False, "do_pad": True},
        ),
        ({"num_tokens": 9}, {"num_tokens": None, "retention_ratio": 0.5}, {"num_tokens": None, "retention_ratio": 0.5}),
        ({"num_tokens": 9}, {"images_kwargs": {"retention_ratio": 0.5}}, {"images_kwargs": {"retention_ratio": 0.5}}),
        (
            {"images_kwargs": {"num_tokens": 9, "do_resize": False}},
            {"retention_ratio": 0.5},
            {"images_kwargs": {"do_resize": False}, "retention_ratio": 0.5},
        ),
        # Two budgets of one request stay two, for the processor to refuse.
        ({"num_tokens": 9}, {"num_tokens": 7, "retention_ratio": 0.5}, {"num_tokens": 7, "retention_ratio": 0.5}),
        (
            {},
            {"num_tokens": 7, "images_kwargs": {"num_tokens": 8}},
            {"num_tokens": 7, "images_kwargs": {"num_tokens": 8}},
        ),
        # Those of pictures and of videos are two matters.
        (
            {"num_tokens": 9, "video_num_tokens": 30},
            {"video_retention_ratio": 0.5},
            {"num_tokens": 9, "video_retention_ratio": 0.5},
        ),
        ({"num_tokens": 9}, {"images_kwargs": 5}, {"num_tokens": 9, "images_kwargs": 5}),
    ],
    ids=str,
)
def test_a_budget_of_the_request_replaces_that_of_the_start(start, request_, expected):
    merged, given = {**start, **request_}, (repr(start), repr(request_))
    assert with_budget_of_request(merged, request_) == expected
    assert (repr(start), repr(request_)) == given  # vLLM keeps both


@pytest.fixture(scope="module")
def processor(family):
    return AutoProcessor.from_pretrained(family.variant)


@pytest.fixture
def config(family):
    return AutoConfig.from_pretrained(family.variant)


@pytest.mark.parametrize(
    "arguments", [None, {}, {"num_tokens": 5}, {"images_kwargs": {"retention_ratio": 0.5}}], ids=str
)
def test_a_start_with_a_possible_budget_passes(processor, config, arguments):
    check_start(processor, config, arguments)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"num_tokens": 0}, "Got num_tokens=0"),
        ({"images_kwargs": {"retention_ratio": 2}}, "Got retention_ratio=2"),
        ({"num_tokens": 5, "retention_ratio": 0.5}, "Got both"),
        ({"num_token": 5}, "Did you mean num_tokens"),
        ({"seed": 5}, "takes only the budgets"),
        ({"video_num_tokens": 5}, "takes no videos"),
    ],
    ids=str,
)
def test_a_start_with_another_budget_is_refused(processor, config, arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        check_start(processor, config, arguments)


def test_a_start_with_two_minds_about_the_budget_is_refused(processor, config):
    config.divprune_config = type(config.divprune_config)(num_tokens=9)
    with pytest.raises(ValueError, match="'num_tokens': 9.*'retention_ratio': 0.25.* mm_processor_kwargs"):
        check_start(processor, config, {})


@pytest.mark.parametrize(("name", "value"), [("positions", "original"), ("layer", 1)])
def test_a_start_with_what_vllm_cannot_follow_is_refused(processor, config, name, value):
    setattr(config.divprune_config, name, value)
    with pytest.raises(ValueError, match=f"Got {name}={value!r} in vLLM"):
        check_start(processor, config, {})
