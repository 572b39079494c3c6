"""Every layout of a base becomes a variant that loads whole: weights, and a processor that counts right."""

import json
import shutil

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor, LlavaForConditionalGeneration

from divprune_hf import convert_checkpoint
from tests.helpers.folders import edit_json, load_json
from tests.helpers.tiny_models import (
    CHAT_TEMPLATE,
    NUM_IMAGE_TOKENS,
    PATCH_SIZE,
    STRATEGIES,
    save_tiny_base,
    tiny_processor,
)


TOWERS = {"clip": 1, "dinov2": 1, "siglip": 0}
COUNTING_KEYS = ("patch_size", "num_additional_image_tokens", "vision_feature_select_strategy")


def to_older_layout(base, tower):
    """The files of older llava-hf repos: a preprocessor config, a JSON chat template, and no processor config."""
    for name in ("processor_config.json", "chat_template.jinja"):
        (base / name).unlink()
    tiny_processor(tower).image_processor.save_pretrained(base)
    template = CHAT_TEMPLATE.replace("\\", "\\\\").replace('"', '\\"')
    (base / "chat_template.json").write_text(f'{{"chat_template": "{template}"}}')


@pytest.mark.parametrize("tower", TOWERS)
@pytest.mark.parametrize("lacking", ["file", "all_keys", *COUNTING_KEYS])
def test_incomplete_processor_config_is_written_right(make_checkpoint, photos, tmp_path, tower, lacking):
    base = shutil.copytree(make_checkpoint(tower=tower).base, tmp_path / "base")
    if lacking == "file":
        to_older_layout(base, tower)
    else:
        edit_json(base / "processor_config.json", remove=COUNTING_KEYS if lacking == "all_keys" else (lacking,))
    variant = convert_checkpoint(base, tmp_path / "variant", {"num_tokens": 7})

    written = load_json(variant / "processor_config.json")
    assert [written[key] for key in COUNTING_KEYS] == [PATCH_SIZE, TOWERS[tower], STRATEGIES[tower]]
    assert written["processor_class"] == "DivPruneLlavaProcessor"

    processor = AutoProcessor.from_pretrained(variant)
    model = AutoModelForImageTextToText.from_pretrained(variant)
    chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "w5 w6"}]}]
    prompt = processor.apply_chat_template(chat, add_generation_prompt=True)
    for budget, kept in (({}, 7), ({"retention_ratio": 1.0}, NUM_IMAGE_TOKENS)):
        inputs = processor(images=photos[0], text=prompt, return_tensors="pt", **budget)
        assert inputs["num_image_tokens_kept"].tolist() == [kept]
        answer = model.generate(**inputs, max_new_tokens=4, min_new_tokens=4, do_sample=False)
        assert answer.shape[1] == inputs["input_ids"].shape[1] + 4


@pytest.mark.parametrize("num_shards", [1, 3], ids=["one_file", "sharded"])
@pytest.mark.parametrize("layout", ["llava_hf", "module"])
def test_variant_loads_every_weight_of_the_base_bit_for_bit(make_checkpoint, layout, num_shards):
    checkpoint = make_checkpoint(layout=layout, num_shards=num_shards)
    stock = LlavaForConditionalGeneration.from_pretrained(checkpoint.base).state_dict()
    model, loading = AutoModelForImageTextToText.from_pretrained(checkpoint.variant, output_loading_info=True)
    assert not loading["missing_keys"] and not loading["unexpected_keys"] and not loading["mismatched_keys"]
    weights = model.state_dict()
    assert set(weights) == set(stock)
    assert all(weights[name].dtype == stock[name].dtype and torch.equal(weights[name], stock[name]) for name in stock)


def test_weights_are_those_of_the_model_that_was_saved(tmp_path):
    (tmp_path / "base").mkdir()
    saved = save_tiny_base(tmp_path / "base", seed=5).state_dict()
    other = save_tiny_base(tmp_path / "base", seed=5, layout="module", num_shards=2).state_dict()
    (tmp_path / "base" / "model.safetensors").unlink()
    model = AutoModelForImageTextToText.from_pretrained(convert_checkpoint(tmp_path / "base", tmp_path / "variant"))
    weights = model.state_dict()
    assert all(torch.equal(weights[name], saved[name]) and torch.equal(saved[name], other[name]) for name in saved)


def image_and_video_configs(base):
    """What the image and the video processor of a tiny checkpoint say, without their types."""
    processor = AutoProcessor.from_pretrained(base)
    both = (json.loads(part.to_json_string()) for part in (processor.image_processor, processor.video_processor))
    types = ("image_processor_type", "video_processor_type", "processor_class", "feature_extractor_type")
    return [{name: value for name, value in config.items() if name not in types} for config in both]


@pytest.mark.parametrize("layout", ["no types", "no video type", "images only", "images only, no type"])
def test_unnamed_image_and_video_processors_are_found(make_checkpoint, clips, photos, tmp_path, layout):
    """Stock transformers finds them by the model type, which is another in a variant."""
    base = shutil.copytree(make_checkpoint(family="llava_next_video").base, tmp_path / "base")
    image, video = image_and_video_configs(base)
    edit_json(base / "processor_config.json", remove=("image_processor", "video_processor"))
    if "no type" not in layout or layout == "no video type":
        image = {**image, "image_processor_type": "LlavaNextImageProcessor"}
    (base / "preprocessor_config.json").write_text(json.dumps(image))
    (base / "video_preprocessor_config.json").unlink(missing_ok=True)
    if not layout.startswith("images only"):
        (base / "video_preprocessor_config.json").write_text(json.dumps(video))
    variant = convert_checkpoint(base, tmp_path / "variant", {"video_num_tokens": 7})
    processor = AutoProcessor.from_pretrained(variant)
    assert type(processor.video_processor).__name__ == "LlavaNextVideoVideoProcessor"
    assert type(processor.image_processor).__name__.startswith("LlavaNextImageProcessor")
    inputs = processor(images=photos[0], videos=clips[0], text="<image> <video>", return_tensors="pt")
    expected = AutoProcessor.from_pretrained(make_checkpoint(family="llava_next_video").base)(
        images=photos[0], videos=clips[0], text="<image> <video>", return_tensors="pt"
    )
    assert inputs["num_video_tokens_kept"].tolist() == [7]
    assert torch.equal(inputs["pixel_values"], expected["pixel_values"])
    assert torch.equal(inputs["pixel_values_videos"], expected["pixel_values_videos"])
