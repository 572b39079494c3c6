"""LLaVA-NeXT-Video: the invariants for videos and for images, alone and mixed, on frames of real files."""

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor, LlavaNextVideoForConditionalGeneration

from divprune_hf import keep_count, select_diverse_tokens
from divprune_hf.remote_code import max_min_fast
from divprune_hf.remote_code.token_selection import feature_list
from tests.helpers.tiny_answers import assert_loads_as_remote_code, features_in, greedy, load
from tests.helpers.tiny_models import IMAGE_TOKEN_ID, VIDEO_TOKEN_ID
from tests.naive_max_min import is_greedy


pytestmark = pytest.mark.modeling
NUM_FRAME_TOKENS = 9  # 6 x 6 patches of a tiny frame, pooled 2 x 2
NUM_VIDEO_TOKENS = 8 * NUM_FRAME_TOKENS
PROMPT = "w1 <video> w2 w3"
MIXED = "w1 <video> w2 <image><image> w3 <video>"


@pytest.fixture(scope="module")
def checkpoint(make_checkpoint, video_files):
    return make_checkpoint(family="llava_next_video")


def stock_model(checkpoint):
    return LlavaNextVideoForConditionalGeneration.from_pretrained(checkpoint.base, dtype=torch.float32).eval()


def stock_features(stock, inputs):
    """The stock model's features of each image and of each video."""
    with torch.no_grad():
        images = stock.model.get_image_features(inputs["pixel_values"], inputs["image_sizes"])
        videos = stock.model.get_video_features(inputs["pixel_values_videos"])
    return feature_list(images), feature_list(videos)


def fed_with(stock, inputs, image_features, video_features):
    """The prompt with features written over its placeholders, as arguments of the stock model."""
    embeds = stock.get_input_embeddings()(inputs["input_ids"]).detach().clone()
    for token_id, features in ((IMAGE_TOKEN_ID, image_features), (VIDEO_TOKEN_ID, video_features)):
        if features:
            embeds[inputs["input_ids"] == token_id] = torch.cat(features)
    return {"inputs_embeds": embeds, "attention_mask": inputs["attention_mask"]}


@pytest.fixture
def mixed(checkpoint, clips, photos):
    """A model and a prompt with two videos around two adjacent pictures of different shapes."""
    model, processor = load(checkpoint, divprune_config={"video_num_tokens": 11})
    pictures = [photos[0].resize((40, 90)), photos[1]]
    inputs = processor(images=pictures, videos=clips[:2], text=MIXED, video_num_tokens=11, return_tensors="pt")
    return model, processor, inputs


def test_a_video_is_one_pool_of_all_its_frames(checkpoint, clips):
    model, processor = load(checkpoint)
    assert processor.divprune_config == {"retention_ratio": 0.25, "order": "raster", "video_retention_ratio": 0.1}
    inputs = processor(videos=clips, text=[PROMPT] * 3, padding=True, return_tensors="pt")
    assert processor.count_video_tokens(inputs) == [NUM_VIDEO_TOKENS] * 3
    assert (
        inputs["num_video_tokens_kept"].tolist() == [keep_count(NUM_VIDEO_TOKENS, retention_ratio=0.1)] * 3 == [7] * 3
    )
    with torch.no_grad():
        all_features = feature_list(stock_model(checkpoint).model.get_video_features(inputs["pixel_values_videos"]))
        kept = feature_list(model.model.get_video_features(inputs["pixel_values_videos"]))
    picks = model.select_video_tokens(inputs["pixel_values_videos"])
    for features, indices, kept_features in zip(all_features, picks, kept, strict=True):
        assert len(features) == NUM_VIDEO_TOKENS
        assert torch.equal(indices, select_diverse_tokens(features, 7))
        assert is_greedy(features, select_diverse_tokens(features, 7, "selection").tolist(), tolerance=2e-6)
        assert torch.equal(kept_features, features[indices])
    assert any(len({index // NUM_FRAME_TOKENS for index in indices.tolist()}) < 7 for indices in picks)


def test_still_frames_add_nothing(checkpoint, clips):
    """What repeats from frame to frame is what is dropped: a still video keeps the tokens of one frame."""
    model, processor = load(checkpoint)
    still = clips[0][:1].repeat(8, axis=0)
    inputs = processor(videos=still, text=PROMPT, video_num_tokens=NUM_FRAME_TOKENS, return_tensors="pt")
    (picks,) = model.select_video_tokens(inputs["pixel_values_videos"], inputs["num_video_tokens_kept"])
    assert picks.tolist() == list(range(NUM_FRAME_TOKENS))


def test_pruned_logits_are_those_of_the_stock_model_fed_the_kept_features(checkpoint, mixed):
    model, _, inputs = mixed
    stock = stock_model(checkpoint)
    image_features, video_features = stock_features(stock, inputs)
    image_picks = model.select_image_tokens(inputs["pixel_values"], inputs["image_sizes"])
    video_picks = model.select_video_tokens(inputs["pixel_values_videos"])
    kept_images = [features[picks] for features, picks in zip(image_features, image_picks)]
    kept_videos = [features[picks] for features, picks in zip(video_features, video_picks)]
    with torch.no_grad():
        outputs = model(**inputs)
        reference = stock(**fed_with(stock, inputs, kept_images, kept_videos)).logits
        others = stock(**fed_with(stock, inputs, kept_images, [f[:11] for f in video_features])).logits
    assert torch.equal(outputs.logits, reference) and not torch.equal(outputs.logits, others)
    assert torch.equal(features_in(outputs), torch.cat(kept_images))
    assert torch.equal(features_in(outputs, "video"), torch.cat(kept_videos))
    tuples = model(**inputs, return_dict=False)
    assert torch.equal(tuples[0], reference)


def test_keeping_everything_is_the_stock_model_bit_for_bit(checkpoint, clips, photos, monkeypatch):
    def never(*args):
        raise AssertionError("nothing is to be selected")

    monkeypatch.setattr(max_min_fast, "select_diverse_tokens_of_images", never)
    both = {"retention_ratio": 1.0, "video_retention_ratio": 1.0}
    model, processor = load(checkpoint, divprune_config=both)
    media = {"images": photos, "videos": clips[:2], "text": MIXED, "return_tensors": "pt"}
    inputs = processor(**media, **both)
    stock_inputs = AutoProcessor.from_pretrained(checkpoint.base)(**media)
    stock = stock_model(checkpoint)
    for name in ("input_ids", "pixel_values", "pixel_values_videos", "image_sizes"):
        assert torch.equal(inputs[name], stock_inputs[name])
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, stock(**stock_inputs).logits)
    assert greedy(model, inputs) == greedy(stock, stock_inputs)


@pytest.mark.parametrize("num_beams", [1, 3], ids=["greedy", "beams"])
def test_a_batch_row_answers_as_it_does_alone(checkpoint, clips, photos, num_beams):
    """Video and two adjacent pictures, two adjacent videos, one picture, only text."""
    model, processor = load(checkpoint)
    rows = [
        ("w5 <video> w2 <image><image>", [photos[0].resize((40, 90)), photos[1]], clips[:1]),
        ("w1 <video><video> w4", [], clips[1:]),
        ("w8 <image> w9", photos[1:], []),
        ("w4 w5", [], []),
    ]
    images, videos = ([one for row in rows for one in row[kind]] for kind in (1, 2))
    batch = processor(images=images, videos=videos, text=[row[0] for row in rows], padding=True, return_tensors="pt")
    together = greedy(model, batch, num_beams=num_beams)
    for (text, row_images, row_videos), answer in zip(rows, together):
        inputs = processor(images=row_images or None, videos=row_videos or None, text=text, return_tensors="pt")
        assert greedy(model, inputs, num_beams=num_beams) == [answer]
        if row_videos:
            other = processor(
                images=row_images or None, videos=row_videos, text=text, video_num_tokens=30, return_tensors="pt"
            )
            assert greedy(model, other, num_beams=num_beams) != [answer]


def test_features_of_a_video_in_a_batch_are_those_of_it_alone(checkpoint, clips):
    model, processor = load(checkpoint)
    batch = processor(videos=clips, text=[PROMPT] * 3, padding=True, return_tensors="pt")
    picks = model.select_video_tokens(batch["pixel_values_videos"])
    for clip, together in zip(clips, picks):
        (alone,) = model.select_video_tokens(
            processor(videos=clip, text=PROMPT, return_tensors="pt")["pixel_values_videos"]
        )
        assert torch.equal(alone, together)


def test_the_processors_counts_win_over_the_models_config(checkpoint, mixed, clips):
    model, processor, inputs = mixed
    model.config.divprune_config = type(model.config.divprune_config)(video_num_tokens=30, num_tokens=30)
    configured, _ = load(checkpoint, divprune_config={"video_num_tokens": 11})
    assert greedy(model, inputs) == greedy(configured, inputs)
    without = processor(videos=clips[0], text=PROMPT, video_num_tokens=30, return_tensors="pt")
    del without["num_video_tokens_kept"]
    with torch.no_grad():
        assert len(features_in(model(**without), "video")) == 30


def test_one_frame_answers(checkpoint, clips):
    model, processor = load(checkpoint)
    inputs = processor(videos=[clips[0][:1]], text=PROMPT, video_num_tokens=4, return_tensors="pt")
    assert processor.count_video_tokens(inputs) == [NUM_FRAME_TOKENS]
    assert len(greedy(model, inputs)[0]) == 6


def test_selection_is_made_in_float32(checkpoint, clips):
    """bfloat16 weights: the picks are those of the model's own features, compared in float32."""
    model, processor = load(checkpoint)
    model = model.to(torch.bfloat16)
    pixels = processor(videos=clips[0], text=PROMPT, return_tensors="pt")["pixel_values_videos"].bfloat16()
    model.config.divprune_config = type(model.config.divprune_config)(video_retention_ratio=1.0)
    with torch.no_grad():
        (features,) = feature_list(model.model.get_video_features(pixels))
    (picks,) = model.select_video_tokens(pixels, torch.tensor([7]))
    assert features.dtype == torch.bfloat16
    assert torch.equal(picks, select_diverse_tokens(features.float(), 7))


def test_labels_train_on_the_kept_tokens(mixed):
    model, _, inputs = mixed
    model.train()
    loss = model(**inputs, labels=inputs["input_ids"]).loss
    loss.backward()
    assert loss.isfinite() and model.model.multi_modal_projector.linear_1.weight.grad.abs().sum() > 0


def test_the_variant_loads_as_remote_code_with_every_weight(checkpoint, run_isolated):
    assert_loads_as_remote_code(checkpoint.variant, run_isolated)


@pytest.mark.parametrize("layout", ["llava_hf", "module"])
@pytest.mark.parametrize("language", ["llama", "mistral"])
def test_both_key_layouts_load_whole(make_checkpoint, video_files, layout, language):
    checkpoint = make_checkpoint(family="llava_next_video", layout=layout, language=language)
    ours, info = AutoModelForImageTextToText.from_pretrained(checkpoint.variant, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    stock = stock_model(checkpoint).state_dict()
    weights = ours.float().state_dict()
    assert weights.keys() == stock.keys()
    assert all(torch.equal(weights[name], stock[name]) for name in stock)


@pytest.mark.parametrize(("tower", "language"), [("siglip", "mistral"), ("clip", "qwen2"), ("dinov2", "llama")])
def test_other_towers_and_language_models_answer(make_checkpoint, clips, tower, language):
    model, processor = load(make_checkpoint(family="llava_next_video", tower=tower, language=language))
    inputs = processor(videos=clips, text=[PROMPT] * 3, padding=True, return_tensors="pt")
    assert processor.count_video_tokens(inputs) == [NUM_VIDEO_TOKENS] * 3
    assert len(greedy(model, inputs)) == 3
