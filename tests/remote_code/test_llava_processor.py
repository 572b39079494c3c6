"""Budget -> placeholders and counts, on real pictures, usual and unusual; and what happens when parts do not fit."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, LlavaForConditionalGeneration, LlavaProcessor

from divprune_hf import DivPruneLlavaProcessor, set_budget
from divprune_hf.remote_code.transformers_surface import HAS_IMAGE_HOOK
from tests.helpers.tiny_models import IMAGE_TOKEN_ID, NUM_IMAGE_TOKENS


pytestmark = pytest.mark.modeling
PROMPT = "w1 <image> w2 w3"


@pytest.fixture(scope="module")
def processor(family):
    return AutoProcessor.from_pretrained(family.variant)


@pytest.fixture(scope="module")
def model(family):
    return AutoModelForImageTextToText.from_pretrained(family.variant, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def stock_processor(family):
    return LlavaProcessor.from_pretrained(family.base)


def num_placeholders(inputs):
    return (torch.as_tensor(inputs["input_ids"]) == IMAGE_TOKEN_ID).sum(-1).tolist()


@pytest.mark.parametrize(
    ("budget", "kept"),
    [
        ({}, 9),
        ({"num_tokens": 5}, 5),
        ({"num_tokens": 1000}, NUM_IMAGE_TOKENS),
        ({"retention_ratio": 0.5}, 18),
        ({"retention_ratio": 1}, NUM_IMAGE_TOKENS),
        ({"retention_ratio": 1e-9}, 1),
        ({"images_kwargs": {"num_tokens": 7}}, 7),
        ({"images_kwargs": {"retention_ratio": 1}}, NUM_IMAGE_TOKENS),
        ({"retention_ratio": 0.5, "images_kwargs": {"do_resize": True}}, 18),
    ],
    ids=str,
)
def test_a_call_writes_as_many_placeholders_as_it_keeps_tokens(processor, model, photos, budget, kept):
    inputs = processor(images=photos[:1], text=PROMPT, return_tensors="pt", **budget)
    assert num_placeholders(inputs) == [kept]
    assert inputs["num_image_tokens_kept"].tolist() == [kept] and inputs["num_image_tokens_kept"].dtype == torch.int64
    assert inputs["input_ids"].shape[1] == 4 + kept
    assert model.generate(**inputs, max_new_tokens=2).shape[0] == 1


def test_the_budget_of_a_call_is_forgotten_after_it(processor, photos):
    processor(images=photos[:1], text=PROMPT, num_tokens=3)
    assert num_placeholders(processor(images=photos[:1], text=[PROMPT])) == [9]


def test_text_and_pixels_are_those_of_the_stock_processor(processor, stock_processor, photos):
    texts = ["w1 <image> w2 <image>", "w5", "<image>"]
    ours = processor(images=[*photos, photos[0]], text=texts, padding=True, return_tensors="pt", retention_ratio=1.0)
    stock = stock_processor(images=[*photos, photos[0]], text=texts, padding=True, return_tensors="pt")
    assert set(ours) == {*stock, "num_image_tokens_kept"}
    assert all(torch.equal(ours[name], stock[name]) for name in stock)


def test_token_types_mark_the_kept_placeholders(processor, photos):
    inputs = processor(images=photos[:1], text=PROMPT, return_mm_token_type_ids=True, return_tensors="pt")
    assert torch.equal(inputs["mm_token_type_ids"], (inputs["input_ids"] == IMAGE_TOKEN_ID).long())


def test_text_alone_and_images_alone(processor, model, photos):
    assert "num_image_tokens_kept" not in processor(text="w1 w2", return_tensors="pt")
    inputs = processor(text=["w1 w2"], return_tensors="pt")
    assert model.generate(**inputs, max_new_tokens=2).shape[1] <= 5
    assert processor(images=photos, return_tensors="pt")["num_image_tokens_kept"].tolist() == [9, 9]


def test_chat_messages_take_a_budget(processor, photos):
    content = [{"type": "image", "image": photos[0]}, {"type": "text", "text": "w1 w2"}]
    arguments = {"tokenize": True, "return_dict": True, "return_tensors": "pt", "add_generation_prompt": True}
    budget = {"processor_kwargs": {"num_tokens": 5}} if HAS_IMAGE_HOOK else {"num_tokens": 5}
    messages = [{"role": "user", "content": content}]
    assert num_placeholders(processor.apply_chat_template(messages, **arguments)) == [9]
    assert num_placeholders(processor.apply_chat_template(messages, **arguments, **budget)) == [5]


def test_engines_are_told_the_kept_counts(processor):
    data = processor._get_num_multimodal_tokens(image_sizes=[[30, 40], [512, 512]])
    assert data.num_image_tokens == [9, 9]
    assert processor._get_num_multimodal_tokens(image_sizes=[[30, 40]], num_tokens=5).num_image_tokens == [5]
    assert processor._get_num_multimodal_tokens().num_image_tokens is None


def unusual_pictures():
    gradient = np.linspace(0, 255, 40 * 30).astype(np.uint8).reshape(40, 30)
    colours = np.stack([gradient, gradient.T.reshape(40, 30), 255 - gradient, gradient], axis=-1)
    return {
        "1x1": Image.new("RGB", (1, 1), "red"),
        "3 high": Image.effect_noise((40, 3), 50).convert("RGB"),
        "10000x10": Image.effect_noise((10000, 10), 50).convert("RGB"),
        "10x10000": Image.effect_noise((10, 10000), 50).convert("RGB"),
        "grey": Image.fromarray(gradient).convert("L"),
        "palette": Image.fromarray(colours[..., :3]).convert("P"),
        "RGBA": Image.fromarray(colours, mode="RGBA"),
        "grey with alpha": Image.fromarray(gradient).convert("LA"),
        "one bit": Image.fromarray(gradient).convert("1"),
        "16 bit": Image.fromarray(gradient.astype(np.uint16) * 257),
        "CMYK": Image.fromarray(colours, mode="CMYK"),
    }


@pytest.mark.parametrize("tower", ["clip", "siglip"])
@pytest.mark.parametrize("name", unusual_pictures())
def test_unusual_pictures_are_answered(make_checkpoint, name, tower):
    """With CLIP's image processor, and with SigLIP's, which does not make pictures RGB of its own accord."""
    variant = make_checkpoint(tower=tower).variant
    model, processor = AutoModelForImageTextToText.from_pretrained(variant), AutoProcessor.from_pretrained(variant)
    inputs = processor(images=unusual_pictures()[name], text=PROMPT, return_tensors="pt")
    assert num_placeholders(inputs) == [9]
    assert len(set(model.select_image_tokens(inputs["pixel_values"])[0].tolist())) == 9
    assert model.generate(**inputs, max_new_tokens=2).shape[0] == 1


def test_a_picture_may_be_a_path(processor, photos, tmp_path):
    photos[0].save(tmp_path / "photo.png")
    named = processor(images=str(tmp_path / "photo.png"), text=PROMPT, return_tensors="pt")
    given = processor(images=photos[0], text=PROMPT, return_tensors="pt")
    assert torch.equal(named["pixel_values"], given["pixel_values"])


@pytest.mark.parametrize(
    "budget",
    [
        {"retention_ratio": 0},
        {"retention_ratio": -0.5},
        {"retention_ratio": 1.5},
        {"retention_ratio": float("nan")},
        {"retention_ratio": "0.5"},
        {"num_tokens": 0},
        {"num_tokens": 2.5},
        {"num_tokens": 5, "retention_ratio": 0.5},
        {"images_kwargs": {"retention_ratio": "0.5"}},
        {"retention_ratio": 0.5, "images_kwargs": {"num_tokens": 5}},
        {"num_tokens": 6, "images_kwargs": {"num_tokens": 5}},
    ],
    ids=str,
)
def test_an_impossible_budget_of_a_call_is_refused(processor, photos, budget):
    with pytest.raises(ValueError, match="retention_ratio|num_tokens"):
        processor(images=photos[:1], text=PROMPT, **budget)


@pytest.mark.parametrize(
    ("num_images", "text"),
    [(0, PROMPT), (1, "w1"), (1, "<image> <image>"), (2, PROMPT)],
    ids=["none for one", "one for none", "one for two", "two for one"],
)
def test_images_and_placeholders_must_be_as_many(processor, photos, num_images, text):
    with pytest.raises(ValueError, match="<image>"):
        processor(images=photos[:num_images] or None, text=text)


@pytest.mark.parametrize("picture", ["not a picture", 3.5, b"bytes", {"a": 1}], ids=repr)
def test_what_is_not_a_picture_is_refused(processor, picture):
    with pytest.raises((ValueError, TypeError)):
        processor(images=[picture], text=PROMPT)


def test_a_stock_processor_with_our_model_is_refused(stock_processor, model, photos):
    inputs = stock_processor(images=photos[:1], text=PROMPT, return_tensors="pt")
    for call in (model, model.generate):
        with pytest.raises(ValueError, match=r"36 image placeholders .* 9 kept .* processor that was saved"):
            call(**inputs)
    with pytest.raises(ValueError, match="image placeholders .* processor that was saved"):
        model.generate(**inputs, num_beams=2)


def test_our_processor_with_a_stock_model_is_refused(family, processor, photos):
    stock = LlavaForConditionalGeneration.from_pretrained(family.base)
    inputs = processor(images=photos[:1], text=PROMPT, return_tensors="pt")
    with pytest.raises(ValueError, match="num_image_tokens_kept"):
        stock.generate(**inputs)
    del inputs["num_image_tokens_kept"]
    with pytest.raises(ValueError, match="[Ii]mage features and image tokens do not match"):
        stock.generate(**inputs)


@pytest.mark.parametrize("call", ["forward", "generate", "beams"])
def test_counts_dropped_on_the_way_are_refused(processor, model, photos, call):
    inputs = processor(images=photos, text=[PROMPT, PROMPT], num_tokens=5, return_tensors="pt")
    del inputs["num_image_tokens_kept"]
    # Beams repeat the prompts, and on transformers 4.57 the images, before the check.
    numbers = r"\d+ image placeholders .* \d+ kept" if call == "beams" else "10 image placeholders .* 18 kept"
    with pytest.raises(ValueError, match=f"{numbers} .* `num_image_tokens_kept` included"):
        model(**inputs) if call == "forward" else model.generate(**inputs, num_beams=2 if call == "beams" else 1)


@pytest.mark.parametrize("counts", [[9], [9, 9, 9], [0, 18], [18, 100]], ids=str)
def test_counts_that_do_not_fit_the_images_are_refused(processor, model, photos, counts):
    inputs = processor(images=photos, text=[PROMPT, PROMPT], return_tensors="pt")
    inputs["num_image_tokens_kept"] = torch.tensor(counts)
    with pytest.raises(ValueError, match="num_image_tokens_kept|image placeholders"):
        model(**inputs)


def test_a_processor_keeps_its_budget_through_saving(processor, tmp_path, photos):
    processor.save_pretrained(tmp_path)
    again = AutoProcessor.from_pretrained(tmp_path)
    assert type(again) is DivPruneLlavaProcessor
    assert again.divprune_config == {"retention_ratio": 0.25, "order": "raster"}
    assert num_placeholders(again(images=photos[:1], text=[PROMPT])) == [9]


@pytest.mark.parametrize(
    ("override", "stored"),
    [
        ({"num_tokens": 64}, {"num_tokens": 64, "order": "raster"}),
        ({"order": "selection"}, {"retention_ratio": 0.25, "order": "selection"}),
    ],
    ids=str,
)
def test_an_override_while_loading_updates_the_stored_budget(family, override, stored):
    assert AutoProcessor.from_pretrained(family.variant, divprune_config=override).divprune_config == stored


def test_set_budget_changes_model_and_processor(family, photos):
    model = AutoModelForImageTextToText.from_pretrained(family.variant)
    processor = AutoProcessor.from_pretrained(family.variant)
    set_budget(model, processor, num_tokens=4)
    inputs = processor(images=photos[:1], text=PROMPT, return_tensors="pt")
    assert num_placeholders(inputs) == [4]
    del inputs["num_image_tokens_kept"]
    assert model(**inputs).logits.shape[1] == 8
    with pytest.raises(ValueError, match="retention_ratio=2"):
        set_budget(model, processor, retention_ratio=2)
    with pytest.raises(ValueError, match="no budget"):
        set_budget(model, processor)
    with pytest.raises(ValueError, match="does not prune"):
        set_budget(LlavaForConditionalGeneration.from_pretrained(family.base), processor, num_tokens=9)
    assert model.config.divprune_config.num_tokens == 4 == processor.divprune_config["num_tokens"]
