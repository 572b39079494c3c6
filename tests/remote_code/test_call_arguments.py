"""Arguments of a processor's call: what has no effect raises and says why; what stock processors take is taken."""

import copy

import pytest
from transformers import AutoProcessor

from divprune_hf.remote_code.settings import PER_CALL, SETTINGS, VIDEO_BUDGET


pytestmark = pytest.mark.modeling


@pytest.fixture(scope="module")
def processor(family):
    return AutoProcessor.from_pretrained(family.variant)


def call(processor, photos, **arguments):
    return processor(images=photos[:1], text="w1 <image> w2", **arguments)


@pytest.mark.parametrize("nested", [False, True], ids=["by itself", "in images_kwargs"])
@pytest.mark.parametrize("name", [name for name in SETTINGS if name not in PER_CALL])
def test_a_setting_that_no_call_takes_is_refused(processor, photos, name, nested):
    arguments = {name: (SETTINGS[name].choices or (1,))[-1]}
    with pytest.raises(ValueError, match=f"Got {name}=.*takes only the budgets.*from_pretrained"):
        call(processor, photos, **({"images_kwargs": arguments} if nested else arguments))


@pytest.mark.parametrize("name", VIDEO_BUDGET)
def test_a_budget_of_videos_is_refused_where_there_are_none(processor, photos, name):
    with pytest.raises(ValueError, match=f"Got {name}=1 for a model that takes no videos"):
        call(processor, photos, **{name: 1})


@pytest.mark.parametrize(
    ("name", "meant"),
    [("num_token", "num_tokens"), ("retention_ration", "retention_ratio"), ("do_resise", "do_resize")],
)
def test_a_mistyped_name_is_refused_with_the_one_that_is_meant(processor, photos, name, meant):
    for arguments in ({name: 5}, {"images_kwargs": {name: 5}}):
        with pytest.raises(ValueError, match=rf"Got {name}=5, which nothing.*Did you mean {meant}\?"):
            call(processor, photos, **arguments)


@pytest.mark.parametrize("name", ["divprune_config", "num_image_tokens_kept", "nonsense"])
def test_any_other_name_without_effect_is_refused(processor, photos, name):
    with pytest.raises(ValueError, match=f"Got {name}="):
        call(processor, photos, **{name: [1]})


@pytest.mark.parametrize(
    "arguments",
    [
        {"padding": True, "return_tensors": "pt"},
        {"text_kwargs": {"padding": "max_length", "max_length": 64}, "images_kwargs": {"do_resize": False}},
        {"images_kwargs": {"do_rescale": False}, "common_kwargs": {"return_tensors": "pt"}},
        {"add_special_tokens": False, "do_normalize": False, "num_tokens": None},
    ],
    ids=str,
)
def test_what_stock_processors_take_is_taken(family, photos, arguments):
    unpruned = AutoProcessor.from_pretrained(family.variant, divprune_config={"retention_ratio": 1.0})
    ours = call(unpruned, photos, **copy.deepcopy(arguments))  # 4.57 empties the dicts that it gets
    arguments = {name: value for name, value in arguments.items() if name != "num_tokens"}
    stock = call(AutoProcessor.from_pretrained(family.base), photos, **arguments)
    assert ours.pop("num_image_tokens_kept") is not None
    assert ours.keys() == stock.keys()
    assert [list(map(int, row)) for row in ours["input_ids"]] == [list(map(int, row)) for row in stock["input_ids"]]
