"""Counts, placeholders and images that do not fit each other raise, row by row, before anything is computed.

Features of one picture must never land in another row's prompt: a total that fits is not enough.
"""

import pytest
import torch
from transformers import AutoProcessor, LlavaForConditionalGeneration

from divprune_hf import set_budget
from divprune_hf.remote_code.prompt_counts import IMAGE, inputs_of_each_row, to_counts
from tests.helpers.tiny_answers import greedy, load


pytestmark = pytest.mark.modeling
CALLS = {
    "forward": lambda model, inputs: model(**inputs),
    "inner forward": lambda model, inputs: model.model(**inputs),
    "greedy": lambda model, inputs: greedy(model, inputs),
    "beams": lambda model, inputs: greedy(model, inputs, num_beams=2),
    "no cache": lambda model, inputs: greedy(model, inputs, use_cache=False),
}


@pytest.fixture(params=CALLS, ids=list(CALLS))
def call(request):
    return CALLS[request.param]


@pytest.fixture
def nothing_runs(monkeypatch):
    """Let a model fail the test when its vision tower is asked."""

    def guard(model):
        def never(*arguments, **kwargs):
            raise AssertionError("the vision tower is not to run")

        monkeypatch.setattr(model.model.vision_tower, "forward", never)
        return model

    return guard


def counted(inputs, counts, name="num_image_tokens_kept"):
    return {**inputs, name: torch.tensor(counts)}


def test_counts_of_another_row_are_refused(case, call, nothing_runs):
    """Six placeholders a row and counts of five and seven: the total fits, the rows do not."""
    model, processor = load(case.checkpoint)
    budget = {"num_tokens": 6, **({"video_num_tokens": 6} if model.config.takes_videos else {})}
    inputs = case.inputs(processor, **budget)
    call(model, inputs)
    with pytest.raises(ValueError, match=r"\[6, 6\] image placeholders .* \[5, 7\]"):
        call(nothing_runs(model), counted(inputs, [5, 7]))
    if model.config.takes_videos:
        with pytest.raises(ValueError, match=r"\[6, 6\] video placeholders .* \[7, 5\]"):
            call(model, counted(inputs, [7, 5], "num_video_tokens_kept"))


def test_counts_of_another_row_are_refused_beside_rows_of_text(family, photos, call, nothing_runs):
    model, processor = load(family)
    texts = ["w1 <image> w2", "w4 w5", "w7 <image><image>"]
    inputs = processor(images=[*photos, photos[0]], text=texts, padding=True, num_tokens=4, return_tensors="pt")
    call(model, inputs)
    for counts in ([5, 4, 3], [3, 4, 5], [1, 1, 10], [8, 2, 2]):
        with pytest.raises(ValueError, match=r"\[4, 0, 8\] image placeholders"):
            call(nothing_runs(model), counted(inputs, counts))
    # Where two images share a row they may share its placeholders as they like.
    call(load(family)[0], counted(inputs, [4, 3, 5]))


def test_budgets_of_the_config_are_compared_row_by_row_too(family, photos, call):
    """No counts at all: the config keeps six of each, while the rows of the prompt have five and seven places."""
    model, processor = load(family)
    rows = [processor(images=photos[:1], text="w1 <image> w2", num_tokens=num, return_tensors="pt") for num in (5, 7)]
    short, long = (row["input_ids"][0] for row in rows)
    input_ids = torch.stack([torch.cat([torch.zeros(2, dtype=torch.long), short]), long])
    pixels = torch.cat([row["pixel_values"] for row in rows])
    set_budget(model, processor, num_tokens=6)
    inputs = {"input_ids": input_ids, "attention_mask": (input_ids != 0).long(), "pixel_values": pixels}
    with pytest.raises(ValueError, match=r"\[5, (5, )?7(, 7)?\] image placeholders .* \[6, 6"):
        call(model, inputs)


@pytest.mark.parametrize(
    "counts",
    [
        torch.tensor([9.0]),
        [9.0],
        [True],
        torch.tensor([True]),
        [[9]],
        ["9"],
    ],
    ids=str,
)
def test_counts_that_are_no_whole_numbers_are_refused(family, photos, call, nothing_runs, counts):
    model, processor = load(family)
    inputs = {
        **processor(images=photos[:1], text="w1 <image> w2", return_tensors="pt"),
        "num_image_tokens_kept": counts,
    }
    with pytest.raises(ValueError, match="num_image_tokens_kept.*whole numbers"):
        call(nothing_runs(model), inputs)


def test_float_counts_are_refused_by_the_methods_that_select(family, photos):
    model, processor = load(family)
    inputs = processor(images=photos[:1], text="w1 <image> w2", return_tensors="pt")
    for method in (model.select_image_tokens, model.model.get_image_features):
        with pytest.raises(ValueError, match="whole numbers"):
            method(inputs["pixel_values"], num_image_tokens_kept=torch.tensor([9.0]))


@pytest.mark.parametrize("counts", [[9], [9, 9, 9], [9, 9, 0], [9, 4, 5], [], [18], [0, 18], [-1, 19]], ids=str)
def test_counts_of_the_wrong_length_or_range_are_refused(family, photos, call, counts):
    model, processor = load(family)
    inputs = processor(images=photos, text=["w1 <image> w2", "w3 <image> w4"], return_tensors="pt")
    with pytest.raises(ValueError, match="Got"):
        call(model, counted(inputs, counts))


def test_a_stock_processor_with_our_model_is_refused(case, call):
    """It writes a placeholder for every visual token and counts nothing, so the model keeps its own budget."""
    model, _ = load(case.checkpoint)
    inputs = case.inputs(AutoProcessor.from_pretrained(case.checkpoint.base))
    with pytest.raises(ValueError, match="Use the processor that was saved with this model"):
        call(model, inputs)


def test_our_processor_with_a_stock_model_is_refused(family, photos, call):
    _, processor = load(family)
    inputs = processor(images=photos[:1], text="w1 <image> w2", return_tensors="pt")
    stock = LlavaForConditionalGeneration.from_pretrained(family.base).eval()
    without = {name: value for name, value in inputs.items() if name != "num_image_tokens_kept"}
    for given in (inputs, without):
        with pytest.raises(ValueError):
            call(stock, given)


def test_placeholders_without_pictures_are_refused_and_text_alone_is_not(case):
    model, processor = load(case.checkpoint)
    inputs = case.inputs(processor)
    prompt = {"input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"]}
    with pytest.raises(ValueError, match="placeholders in the prompt for 0 kept visual tokens"):
        greedy(model, prompt)
    with pytest.raises(ValueError, match="placeholders in the prompt for 0 kept visual tokens"):
        model.generate(inputs["input_ids"], max_new_tokens=2)
    assert len(greedy(model, processor(text=["w1 w2", "w3 w4"], return_tensors="pt"))) == 2


def test_rows_are_told_apart():
    assert inputs_of_each_row([3, 0, 7], [3, 2, 5], IMAGE) == [1, 0, 2]
    assert inputs_of_each_row([], [], IMAGE) == []
    assert to_counts(None, IMAGE) is None
    assert to_counts(torch.tensor([[3], [4]]), IMAGE) == [3, 4]
