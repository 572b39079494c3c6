"""The baselines, on the path of DivPrune itself: what they keep, and that a picture keeps the same in every company."""

import json

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoProcessor

from divprune_hf import convert_checkpoint, set_budget
from divprune_hf.remote_code.baseline_selectors import MASK, checksum, random_indices, uniform_indices
from divprune_hf.remote_code.token_selection import feature_list
from tests.helpers.tiny_answers import fed_with, greedy, load
from tests.helpers.tiny_models import FAMILY_CLASSES, NUM_IMAGE_TOKENS


PROMPT = "w1 <image> w2 w3"
pytestmark = pytest.mark.modeling
BASELINES = ["random", "uniform"]


def naive_scramble(number):
    for _ in range(2):
        number = ((number >> 16) ^ number) * 0x45D9F3B % 2**32
    return (number >> 16) ^ number


def naive_random(pixels, num_available, num_tokens, seed):
    """The draw in Python's integers, one pixel after another."""
    bits = pixels.to(torch.bfloat16).view(torch.int16).flatten().tolist()
    total = sum(value * naive_scramble(place) for place, value in enumerate(bits, start=1)) % 2**32
    start = naive_scramble((total + naive_scramble(seed + 1)) % 2**32)
    return sorted(range(num_available), key=lambda token: naive_scramble((token + start) % 2**32))[:num_tokens]


def naive_uniform(num_available, num_tokens):
    return [int((i + 0.5) * num_available / num_tokens) for i in range(num_tokens)]


def expected_picks(selector, rows, num_available, num_tokens, seed=0):
    if selector == "uniform":
        return [naive_uniform(m, k) for m, k in zip(num_available, num_tokens)]
    return [sorted(naive_random(row, m, k, seed)) for row, m, k in zip(rows, num_available, num_tokens)]


@pytest.mark.parametrize(("num_available", "num_tokens"), [(576, 56), (256, 25), (10, 3), (7, 7), (5, 1), (2880, 282)])
def test_uniform_takes_the_middles_of_equal_stretches(num_available, num_tokens):
    assert uniform_indices(num_available, num_tokens).tolist() == naive_uniform(num_available, num_tokens)


@pytest.mark.parametrize("seed", [0, 1, MASK])
def test_random_is_a_shuffle_by_pixels_and_seed(seed):
    pixels = torch.randn(3, 6, 6, generator=torch.Generator().manual_seed(0))
    picks = random_indices(pixels, 576, 56, seed)
    assert picks.tolist() == naive_random(pixels, 576, 56, seed)
    assert len(set(random_indices(pixels, 576, 576, seed).tolist())) == 576
    one_pixel_apart = pixels.clone()
    one_pixel_apart[0, 0, 0] += 0.1
    swapped = pixels.flip(-1)
    for other in (one_pixel_apart, swapped):
        assert random_indices(other, 576, 56, seed).tolist() != picks.tolist()
    assert random_indices(pixels, 576, 56, seed ^ 1).tolist() != picks.tolist()
    assert torch.equal(random_indices(pixels.bfloat16(), 576, 56, seed), picks)


def test_random_favours_no_token():
    """2,000 pictures, 25 of 256 tokens each: every token is kept about 195 times, with a standard deviation of 13."""
    generator = torch.Generator().manual_seed(1)
    kept = torch.zeros(256)
    for _ in range(2000):
        kept[random_indices(torch.randn(3, 2, 2, generator=generator), 256, 25)] += 1
    assert kept.min() > 195 - 5 * 13.3 and kept.max() < 195 + 5 * 13.3 and 11 < kept.std() < 16


def test_padding_with_views_of_zeros_changes_nothing():
    views = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(2))
    assert torch.equal(checksum(views), checksum(torch.cat([views, torch.zeros(3, 3, 6, 6)])))


@pytest.mark.parametrize("selector", BASELINES)
def test_the_language_model_is_fed_the_baselines_tokens(family, photos, selector):
    model, processor = load(family, divprune_config={"selector": selector, "seed": 3})
    inputs = processor(images=photos, text=["w1 <image> w2", "w1 <image> w2"], return_tensors="pt", num_tokens=7)
    stock = FAMILY_CLASSES["llava"][1].from_pretrained(family.base, dtype=torch.float32).eval()
    with torch.no_grad():
        all_features = feature_list(stock.get_image_features(pixel_values=inputs["pixel_values"]))
    picks = expected_picks(selector, inputs["pixel_values"], [NUM_IMAGE_TOKENS] * 2, [7, 7], seed=3)
    kept = model.select_image_tokens(inputs["pixel_values"], num_image_tokens_kept=inputs["num_image_tokens_kept"])
    assert [indices.tolist() for indices in kept] == picks
    fed = fed_with(stock, inputs, [features[indices] for features, indices in zip(all_features, picks)])
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, stock(**fed).logits)
    if selector == "random":
        model.config.divprune_config.order = "selection"
        (drawn,) = model.select_image_tokens(inputs["pixel_values"][:1], num_image_tokens_kept=[7])
        assert drawn.tolist() == naive_random(inputs["pixel_values"][0], NUM_IMAGE_TOKENS, 7, 3) != picks[0]


@pytest.mark.parametrize("selector", BASELINES)
def test_a_batch_of_any_shapes_answers_as_each_alone(make_checkpoint, photos, selector):
    """LLaVA-NeXT pads every picture to the views of the largest; the same views in one row count too."""
    checkpoint = make_checkpoint(family="llava_next")
    model, processor = load(checkpoint, divprune_config={"selector": selector})
    pictures = [photos[0].resize(size) for size in ((100, 300), (200, 200), (200, 140), (24, 20))]
    batch = processor(images=pictures, text=[PROMPT] * 4, padding=True, return_tensors="pt")
    together = greedy(model, batch)
    available = processor.count_image_tokens(batch)
    picks = model.select_image_tokens(batch["pixel_values"], batch["image_sizes"])
    counts = batch["num_image_tokens_kept"].tolist()
    assert [p.tolist() for p in picks] == expected_picks(selector, batch["pixel_values"], available, counts)
    views = []
    for picture, answer, indices in zip(pictures, together, picks, strict=True):
        inputs = processor(images=picture, text=PROMPT, return_tensors="pt")
        assert greedy(model, inputs) == [answer]
        (alone,) = model.select_image_tokens(inputs["pixel_values"], inputs["image_sizes"])
        assert torch.equal(alone, indices)
        views.append(inputs["pixel_values"][0])
    assert len({len(view) for view in views}) > 1
    in_a_row = model.select_image_tokens(torch.cat(views), batch["image_sizes"])
    assert all(torch.equal(one, other) for one, other in zip(in_a_row, picks, strict=True))


@pytest.mark.parametrize("selector", BASELINES)
def test_a_video_is_drawn_from_by_its_frames(make_checkpoint, clips, photos, selector):
    checkpoint = make_checkpoint(family="llava_next_video")
    model, processor = load(checkpoint, divprune_config={"selector": selector})
    text = ["w1 <video> w2 <image>", "w1 <video> w2 <image>"]
    batch = processor(videos=clips[:2], images=photos, text=text, padding=True, return_tensors="pt")
    picks = model.select_video_tokens(batch["pixel_values_videos"], batch["num_video_tokens_kept"])
    assert [p.tolist() for p in picks] == expected_picks(selector, batch["pixel_values_videos"], [72, 72], [7, 7])
    together = greedy(model, batch)
    for clip, photo, answer in zip(clips, photos, together):
        inputs = processor(videos=clip, images=photo, text=text[0], return_tensors="pt")
        assert greedy(model, inputs) == [answer]


@pytest.mark.parametrize("selector", BASELINES)
def test_nothing_is_read_back_from_the_device(family, photos, selector):
    """Fake tensors have no values: reading anything on the host would raise."""
    model, processor = load(family, divprune_config={"selector": selector})
    inputs = processor(images=photos, text=[PROMPT, PROMPT], return_tensors="pt")
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, torch.no_grad():
        pixel_values = mode.from_tensor(inputs["pixel_values"])
        features = feature_list(model.get_image_features(pixel_values, num_image_tokens_kept=[9, NUM_IMAGE_TOKENS]))
    assert [tuple(kept.shape) for kept in features] == [(9, 32), (NUM_IMAGE_TOKENS, 32)]


@pytest.mark.parametrize("selector", BASELINES)
def test_bfloat16_keeps_the_tokens_of_float32(family, photos, selector):
    model, processor = load(family, divprune_config={"selector": selector})
    inputs = processor(images=photos, text=[PROMPT, PROMPT], return_tensors="pt")
    picks = model.select_image_tokens(inputs["pixel_values"])
    halved = model.to(torch.bfloat16).select_image_tokens(inputs["pixel_values"].to(torch.bfloat16))
    assert all(torch.equal(one, other) for one, other in zip(picks, halved, strict=True))


def test_a_variant_of_a_baseline_says_so_and_loads_without_the_package(family, photos, tmp_path, run_isolated):
    folder = convert_checkpoint(family.base, tmp_path / "random", {"num_tokens": 5, "selector": "random", "seed": 9})
    stored = {"num_tokens": 5, "order": "raster", "selector": "random", "seed": 9}
    for name in ("config.json", "processor_config.json"):
        assert json.loads((folder / name).read_text())["divprune_config"] == stored
    card = (folder / "README.md").read_text()
    assert "random" in card and "most diverse" not in card
    photos[0].save(tmp_path / "photo.png")
    code = """
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor
model = AutoModelForImageTextToText.from_pretrained(sys.argv[1], trust_remote_code=True, dtype="float32")
processor = AutoProcessor.from_pretrained(sys.argv[1], trust_remote_code=True)
inputs = processor(images=Image.open(sys.argv[2]), text="w1 <image> w2", return_tensors="pt")
print(model.select_image_tokens(inputs["pixel_values"])[0].tolist())
"""
    output = run_isolated(code, folder, tmp_path / "photo.png")
    inputs = AutoProcessor.from_pretrained(folder)(images=photos[0], text="w1 <image> w2", return_tensors="pt")
    assert json.loads(output) == sorted(naive_random(inputs["pixel_values"][0], NUM_IMAGE_TOKENS, 5, 9))


def test_a_budget_set_later_leaves_the_selector(family, photos):
    model, processor = load(family, divprune_config={"selector": "uniform"})
    set_budget(model, processor, num_tokens=4)
    inputs = processor(images=photos[:1], text=PROMPT, return_tensors="pt")
    (picks,) = model.select_image_tokens(inputs["pixel_values"])
    assert picks.tolist() == naive_uniform(NUM_IMAGE_TOKENS, 4)
