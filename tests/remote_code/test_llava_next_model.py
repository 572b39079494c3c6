"""LLaVA-NeXT: any resolution, so every image has its own number of visual tokens, and its own budget."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    LlavaNextForConditionalGeneration,
    LlavaNextModel,
)

from divprune_hf import keep_count, select_diverse_tokens
from divprune_hf.cli import main
from divprune_hf.inference.ask import ask
from divprune_hf.remote_code import max_min_fast
from divprune_hf.remote_code.image_views import num_views_of_images
from divprune_hf.remote_code.token_selection import feature_list
from tests.helpers.tiny_answers import assert_loads_as_remote_code, fed_with, greedy, load
from tests.helpers.tiny_models import NUM_IMAGE_TOKENS
from tests.naive_max_min import is_greedy


pytestmark = pytest.mark.modeling
PROMPT = "w1 <image> w2 w3"


@pytest.fixture(scope="module")
def checkpoint(make_checkpoint):
    return make_checkpoint(family="llava_next")


@pytest.fixture(scope="module")
def five_shapes(photos):
    """Five aspect ratios of a real photo, from a tall strip to a wide one."""
    return [photos[0].resize(size) for size in ((100, 300), (150, 200), (200, 200), (200, 140), (300, 90))]


@pytest.fixture(scope="module")
def inner_model(checkpoint):
    return load(checkpoint)[0].model


def image_inputs(inputs):
    return {name: inputs[name] for name in ("pixel_values", "image_sizes")}


def stock_features(checkpoint, inputs):
    stock = LlavaNextForConditionalGeneration.from_pretrained(checkpoint.base, dtype=torch.float32).eval()
    with torch.no_grad():
        features = stock.get_image_features(**image_inputs(inputs))
    return stock, feature_list(features)


def test_each_image_keeps_its_share_of_its_own_tokens(checkpoint, five_shapes):
    model, processor = load(checkpoint)
    inputs = processor(images=five_shapes, text=[PROMPT] * 5, padding=True, return_tensors="pt")
    _, all_features = stock_features(checkpoint, inputs)
    available = [len(features) for features in all_features]
    kept = [keep_count(m, retention_ratio=0.25) for m in available]
    assert len(set(available)) >= 3
    assert inputs["num_image_tokens_kept"].tolist() == kept
    assert processor.count_image_tokens(inputs) == available
    picks = model.select_image_tokens(**image_inputs(inputs))
    for features, indices in zip(all_features, picks, strict=True):
        assert torch.equal(indices, select_diverse_tokens(features, keep_count(len(features), retention_ratio=0.25)))
        assert is_greedy(features, select_diverse_tokens(features, 6, "selection").tolist(), tolerance=2e-6)


def test_engines_are_told_the_kept_counts(checkpoint, five_shapes):
    _, processor = load(checkpoint)
    inputs = processor(images=five_shapes, text=[PROMPT] * 5, padding=True, return_tensors="pt")
    sizes = [[picture.height, picture.width] for picture in five_shapes]
    data = processor._get_num_multimodal_tokens(image_sizes=sizes)
    assert data.num_image_tokens == inputs["num_image_tokens_kept"].tolist()


def test_pruned_logits_are_those_of_the_stock_model_fed_the_kept_features(checkpoint, five_shapes):
    model, processor = load(checkpoint)
    for picture in five_shapes:
        inputs = processor(images=picture, text=PROMPT, return_tensors="pt")
        stock, (features,) = stock_features(checkpoint, inputs)
        (picks,) = model.select_image_tokens(**image_inputs(inputs))
        with torch.no_grad():
            logits = model(**inputs).logits
            assert torch.equal(logits, stock(**fed_with(stock, inputs, [features[picks]])).logits)
            assert not torch.equal(logits, stock(**fed_with(stock, inputs, [features[: len(picks)]])).logits)


def test_keeping_everything_is_the_stock_model_bit_for_bit(checkpoint, five_shapes, monkeypatch):
    def never(*args):
        raise AssertionError("nothing is to be selected")

    monkeypatch.setattr(max_min_fast, "select_diverse_tokens_of_images", never)
    model, processor = load(checkpoint, divprune_config={"retention_ratio": 1.0})
    inputs = processor(images=five_shapes[:2], text=[PROMPT] * 2, padding=True, retention_ratio=1, return_tensors="pt")
    stock_inputs = AutoProcessor.from_pretrained(checkpoint.base)(
        images=five_shapes[:2], text=[PROMPT] * 2, padding=True, return_tensors="pt"
    )
    assert torch.equal(inputs["input_ids"], stock_inputs["input_ids"])
    stock = LlavaNextForConditionalGeneration.from_pretrained(checkpoint.base, dtype=torch.float32).eval()
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, stock(**stock_inputs).logits)
    assert greedy(model, inputs) == greedy(stock, stock_inputs)


@pytest.mark.parametrize("num_beams", [1, 3], ids=["greedy", "beams"])
def test_a_batch_row_answers_as_it_does_alone(checkpoint, five_shapes, num_beams):
    """Two adjacent images of different sizes, one image, none."""
    model, processor = load(checkpoint)
    rows = [
        ("<image><image> w3", five_shapes[:2]),
        (PROMPT, five_shapes[4:]),
        ("w4 w5", []),
        (PROMPT, five_shapes[2:3]),
    ]
    images = [image for _, row_images in rows for image in row_images]
    batch = processor(images=images, text=[text for text, _ in rows], padding=True, return_tensors="pt")
    together = greedy(model, batch, num_beams=num_beams)
    for (text, row_images), answer in zip(rows, together):
        inputs = processor(images=row_images or None, text=text, return_tensors="pt")
        assert greedy(model, inputs, num_beams=num_beams) == [answer]
        if row_images:
            other_budget = processor(images=row_images, text=text, return_tensors="pt", num_tokens=3)
            assert greedy(model, other_budget, num_beams=num_beams) != [answer]


def test_counts_are_needed_where_images_of_different_sizes_share_a_row(checkpoint, five_shapes):
    model, processor = load(checkpoint)
    inputs = processor(images=five_shapes[:2], text="<image><image> w3", return_tensors="pt", num_tokens=7)
    del inputs["num_image_tokens_kept"]
    with pytest.raises(ValueError, match="num_image_tokens_kept"):
        model.generate(**inputs, max_new_tokens=2, num_beams=2)


@pytest.mark.parametrize(("tower", "language"), [("siglip", "mistral"), ("clip", "qwen2"), ("dinov2", "llama")])
def test_other_towers_and_language_models_answer(make_checkpoint, five_shapes, tower, language):
    model, processor = load(make_checkpoint(family="llava_next", tower=tower, language=language))
    inputs = processor(images=five_shapes, text=[PROMPT] * 5, padding=True, return_tensors="pt")
    assert len(greedy(model, inputs)) == 5


def test_ask_draws_the_base_view_and_the_crops(checkpoint, five_shapes, tmp_path, capsys):
    model, processor = load(checkpoint)
    answer = ask(model, processor, five_shapes[4], "w1", max_new_tokens=2)
    assert answer.num_available > 36 and answer.picture.size[0] > 24
    five_shapes[4].save(tmp_path / "wide.png")
    arguments = ["ask", str(checkpoint.base), str(tmp_path / "wide.png"), "w1", "--num-tokens", "7"]
    assert main([*arguments, "--show", str(tmp_path / "kept.png")]) == 0
    assert f"7 of {answer.num_available} visual tokens kept" in capsys.readouterr().err


def test_the_variant_loads_as_remote_code(checkpoint, run_isolated):
    assert_loads_as_remote_code(checkpoint.variant, run_isolated)


@pytest.mark.parametrize("layout", ["llava_hf", "module"])
def test_both_key_layouts_load_whole(make_checkpoint, layout):
    checkpoint = make_checkpoint(family="llava_next", layout=layout)
    ours, info = AutoModelForImageTextToText.from_pretrained(checkpoint.variant, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    stock = LlavaNextForConditionalGeneration.from_pretrained(checkpoint.base).state_dict()
    weights = ours.state_dict()
    assert weights.keys() == stock.keys() and "model.image_newline" in weights
    assert all(torch.equal(weights[name], stock[name]) for name in stock)


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 200), st.integers(1, 200)), min_size=1, max_size=3),
    with_newline=st.booleans(),
)
def test_tokens_are_packed_as_the_stock_model_packs_them(inner_model, sizes, with_newline):
    generator = torch.Generator().manual_seed(0)
    shapes = [(views, NUM_IMAGE_TOKENS, 32) for views in num_views_of_images(inner_model.config, sizes)]
    features = [torch.randn(shape, generator=generator, requires_grad=True) for shape in shapes]
    features.append(features[0][:1])  # a picture that has no crops
    arguments = features, [*sizes, (24, 24)], "default", inner_model.image_newline if with_newline else None
    packed, lengths = inner_model.pack_image_features(*arguments)
    expected, expected_lengths = LlavaNextModel.pack_image_features(inner_model, *arguments)
    assert all(map(torch.equal, packed, expected)) and lengths.tolist() == expected_lengths.tolist()
    weights = torch.randn(sum(map(len, packed)), 32, generator=generator)
    trained = [*features, *([inner_model.image_newline] if with_newline else [])]
    gradients = [torch.autograd.grad((torch.cat(rows) * weights).sum(), trained) for rows in (packed, expected)]
    torch.testing.assert_close(*gradients)
