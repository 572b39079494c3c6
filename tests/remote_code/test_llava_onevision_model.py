"""What is special in LLaVA-OneVision: crops that are interpolated, prompts of several pictures, a video's newline."""

from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from divprune_hf import select_diverse_tokens
from divprune_hf.cards.variants import read_table
from divprune_hf.checkpoints.families import FAMILIES
from divprune_hf.inference.ask import ask
from divprune_hf.inference.loading import load_pruned
from divprune_hf.inference.pictures import draw_views
from divprune_hf.remote_code import transformers_surface
from divprune_hf.remote_code.token_selection import feature_list
from tests.helpers.tiny_answers import greedy
from tests.helpers.tiny_models import FAMILY_CLASSES, IMAGE_TOKEN_ID, NUM_IMAGE_TOKENS, VIDEO_TOKEN_ID


FAMILY = "llava_onevision"
pytestmark = [
    pytest.mark.modeling,
    pytest.mark.skipif(not FAMILIES[FAMILY].is_supported, reason="LLaVA-OneVision needs transformers 5.20"),
]


@pytest.fixture(params=["clip", "siglip"])
def checkpoint(request, make_checkpoint):
    pytest.importorskip("torchvision", reason="its video processor needs torchvision")
    return make_checkpoint(family=FAMILY, tower=request.param)


def stock_of(checkpoint):
    model = FAMILY_CLASSES[FAMILY][1].from_pretrained(checkpoint.base, dtype=torch.float32).eval()
    return model, AutoProcessor.from_pretrained(checkpoint.base)


def test_prompts_are_the_stock_processors_at_ratio_one(checkpoint, photos):
    _, processor = load_pruned(checkpoint.variant, retention_ratio=1.0, device="cpu")
    _, stock_processor = stock_of(checkpoint)
    prompts = {
        "one each": ([[photos[0]], [photos[1]]], ["w1 <image>", "<image> w2"]),
        "several": ([[photos[0], photos[1]], [photos[1]]], ["w1 <image> w3 <image>", "<image> w2"]),
    }
    for pictures, texts in prompts.values():
        ours, stock = (
            made(images=pictures, text=texts, padding=True, return_tensors="pt")
            for made in (processor, stock_processor)
        )
        kept = ours.pop("num_image_tokens_kept")
        assert kept.sum() == (stock["input_ids"] == IMAGE_TOKEN_ID).sum()
        assert ours.keys() == stock.keys() and all(torch.equal(ours[name], stock[name]) for name in ours)


def test_a_large_picture_has_fewer_tokens_than_patches(checkpoint, photos):
    """Crops of more than anyres_max_2 views are interpolated; the processor counts what the model makes of them."""
    model, processor = load_pruned(checkpoint.variant, device="cpu")
    for size in ((48, 48), (90, 40), (24, 70), (30, 31)):
        inputs = processor(images=photos[0].resize(size), text="<image>", return_tensors="pt")
        (num_available,) = processor.count_image_tokens(inputs)
        num_views = inputs["pixel_values"].shape[1]
        with torch.no_grad():
            everything = {**image_inputs(inputs), "num_image_tokens_kept": torch.tensor([num_available])}
            (features,) = feature_list(model.model.get_image_features(**everything))
        assert len(features) == num_available < num_views * NUM_IMAGE_TOKENS + 30
        if size == (48, 48):  # 12 x 12 patches of four crops become 8 x 8, and a newline for each row
            assert num_available == NUM_IMAGE_TOKENS + 8 * 8 + 8


def image_inputs(inputs):
    return {name: inputs[name] for name in ("pixel_values", "image_sizes", "batch_num_images") if name in inputs}


def test_pictures_that_share_a_prompt_have_a_base_view_alone(checkpoint, photos):
    """As in the stock model: each is a pool of its own; answers are those of the stock model fed by hand."""
    model, processor = load_pruned(checkpoint.variant, num_tokens=7, device="cpu")
    stock, _ = stock_of(checkpoint)
    pictures, texts = [[photos[0], photos[1]], [photos[1]]], ["w1 <image> w3 <image>", "<image> w2"]
    inputs = processor(images=pictures, text=texts, padding=True, return_tensors="pt")
    assert processor.count_image_tokens(inputs)[:2] == [NUM_IMAGE_TOKENS + 1] * 2  # and a newline
    with torch.no_grad():
        features = feature_list(stock.model.get_image_features(**image_inputs(inputs)))
        embeds = stock.get_input_embeddings()(inputs["input_ids"]).clone()
    picks = [select_diverse_tokens(tokens, 7) for tokens in features]
    embeds[inputs["input_ids"] == IMAGE_TOKEN_ID] = torch.cat([f[p] for f, p in zip(features, picks)])
    fed = {"inputs_embeds": embeds, "attention_mask": inputs["attention_mask"]}
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, stock(**fed).logits)
    assert all(map(torch.equal, model.select_image_tokens(**image_inputs(inputs)), picks))
    expected = stock.generate(
        **fed, max_new_tokens=6, min_new_tokens=6, do_sample=False, suppress_tokens=[IMAGE_TOKEN_ID, VIDEO_TOKEN_ID]
    )
    assert greedy(model, inputs) == expected.tolist()


def test_beams_keep_the_pictures_of_their_row(checkpoint, photos):
    model, processor = load_pruned(checkpoint.variant, num_tokens=7, device="cpu")
    pictures, texts = [[photos[0], photos[1]], [photos[1]]], ["w1 <image> w3 <image>", "<image> w2"]
    inputs = processor(images=pictures, text=texts, padding=True, return_tensors="pt")
    together = greedy(model, inputs, num_beams=2)
    for row in (0, 1):
        alone = processor(images=[pictures[row]], text=[texts[row]], return_tensors="pt")
        assert greedy(model, alone, num_beams=2)[0] == together[row]


def test_a_video_is_one_pool_of_all_frames_and_a_newline(checkpoint, clips):
    model, processor = load_pruned(checkpoint.variant, video_num_tokens=11, device="cpu")
    stock, stock_processor = stock_of(checkpoint)
    inputs = processor(videos=[clips[0]], text="w1 <video> w2", return_tensors="pt")
    plain = stock_processor(videos=[clips[0]], text="w1 <video> w2", return_tensors="pt")
    assert processor.count_video_tokens(inputs) == [8 * 9 + 1] == [(plain["input_ids"] == VIDEO_TOKEN_ID).sum()]
    assert (inputs["input_ids"] == VIDEO_TOKEN_ID).sum() == 11
    with torch.no_grad():
        (features,) = feature_list(stock.model.get_video_features(inputs["pixel_values_videos"]))
        (picks,) = model.select_video_tokens(inputs["pixel_values_videos"])
        embeds = stock.get_input_embeddings()(inputs["input_ids"]).clone()
        embeds[inputs["input_ids"] == VIDEO_TOKEN_ID] = features[select_diverse_tokens(features, 11)]
        logits = stock(inputs_embeds=embeds).logits
        assert torch.equal(model(**inputs).logits, logits) and torch.equal(picks, select_diverse_tokens(features, 11))


def test_engines_learn_the_sizes_of_videos(checkpoint):
    _, processor = load_pruned(checkpoint.variant, retention_ratio=0.5, video_num_tokens=11, device="cpu")
    counted = processor._get_num_multimodal_tokens(image_sizes=[(48, 48)], video_sizes=[(8, 90, 50), (1, 24, 24)])
    assert counted.num_video_tokens == [11, 10] and counted.num_image_tokens == [
        processor.image_tokens_kept(processor.count_image_tokens(an_image(processor, (48, 48))))[0]
    ]


def an_image(processor, size):
    return processor.image_processor(torch.zeros(3, *size, dtype=torch.uint8), return_tensors="pt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_sizes": None}, "expected the height and width of each picture"),
        ({"image_sizes": torch.tensor([[900, 900]])}, "expected the height and width of each picture"),
        ({"image_sizes": torch.tensor([[24, 24], [24, 24]])}, "expected the height and width of each picture"),
        ({"batch_num_images": torch.tensor([1, 1])}, "expected the height and width of each picture"),
        ({"num_image_tokens_kept": torch.tensor([9, 9])}, "expected"),
    ],
    ids=["no sizes", "more views than pixels", "more sizes than pictures", "more prompts than pictures", "counts"],
)
def test_inputs_that_do_not_fit_are_refused(checkpoint, photos, change, message):
    model, processor = load_pruned(checkpoint.variant, num_tokens=9, device="cpu")
    inputs = processor(images=photos[0].resize((24, 24)), text="w1 <image>", return_tensors="pt")
    with pytest.raises(ValueError, match=message):
        model(**{**inputs, **change})


def test_a_drawing_shows_base_view_and_crops(checkpoint, photos):
    model, processor = load_pruned(checkpoint.variant, num_tokens=20, device="cpu")
    answer = ask(model, processor, photos[0].resize((90, 40)), "w1", max_new_tokens=2)
    rows, columns = processor.patches_of_view(24, 24)
    assert (rows, columns) == (6, 6) and answer.num_kept == 20
    # The squeezed base view, and beside it the picture at the resolution of its crops, less their padding.
    base, crops = 24, answer.picture.width - 24
    assert answer.picture.height >= base and crops > answer.picture.height
    # Every kept patch of the base view is lit, and no other.
    inputs = processor(images=photos[1], text="<image>", num_tokens=1, return_tensors="pt")
    drawn = draw_views(photos[1], inputs, processor, [7])
    assert drawn.getpixel((4, 4)) == (255, 196, 0)  # the outline of the patch in the second row and column


def test_older_releases_are_told_what_the_family_needs(monkeypatch):
    monkeypatch.setattr(transformers_surface.transformers, "__version__", "5.19.0")
    with pytest.raises(ImportError, match=r"family llava_onevision need transformers 5.20 or later; found 5.19.0"):
        transformers_surface.check_family_release(FAMILY, FAMILIES[FAMILY].names.release)


def test_a_base_is_refused_on_an_older_release(checkpoint, monkeypatch):
    monkeypatch.setattr(transformers_surface.transformers, "__version__", "5.19.0")
    with pytest.raises(ValueError, match=r"cannot be used here. .* need transformers 5.20 or later; found 5.19.0"):
        load_pruned(checkpoint.base, device="cpu")


def test_the_variant_loads_as_remote_code(checkpoint, run_isolated, photos, tmp_path):
    photos[0].save(tmp_path / "photo.png")
    code = (
        "import sys, torch\nfrom PIL import Image\n"
        "from transformers import AutoModelForImageTextToText, AutoProcessor\n"
        "assert not any('divprune_hf' in name for name in sys.modules)\n"
        f"folder, photo = {str(checkpoint.variant)!r}, Image.open({str(tmp_path / 'photo.png')!r})\n"
        "model = AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=True)\n"
        "processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)\n"
        "inputs = processor(images=photo, text='w1 <image> w2', return_tensors='pt')\n"
        "print(model.generate(**inputs, max_new_tokens=5, do_sample=False)[0].tolist())\n"
    )
    model = AutoModelForImageTextToText.from_pretrained(checkpoint.variant)
    processor = AutoProcessor.from_pretrained(checkpoint.variant)
    inputs = processor(images=photos[0], text="w1 <image> w2", return_tensors="pt")
    answer = model.generate(**inputs, max_new_tokens=5, do_sample=False)[0].tolist()
    assert run_isolated(code).splitlines()[-1] == str(answer)


def test_the_cards_picture_has_so_many_tokens():
    """A picture of 640 x 480 pixels, as the stock processor of the real sizes counts it."""
    processor = object.__new__(FAMILY_CLASSES[FAMILY][2])
    processor.num_image_tokens, processor.vision_aspect_ratio = 729, "anyres_max_9"
    processor.image_processor = SimpleNamespace(image_grid_pinpoints=FAMILY_CLASSES[FAMILY][0]().image_grid_pinpoints)
    counted = processor._get_number_of_features(480, 640, 384, 384)
    assert read_table()[1]["llava-onevision-qwen2-7b"].visual_tokens == [counted]
