"""Every layout of a base becomes a variant that loads whole: weights, and a processor that counts right."""

import shutil

import pytest
import torch
from folders import edit_json, load_json
from tiny_models import CHAT_TEMPLATE, NUM_IMAGE_TOKENS, PATCH_SIZE, STRATEGIES, save_tiny_base, tiny_processor
from transformers import AutoModelForImageTextToText, AutoProcessor, LlavaForConditionalGeneration

from divprune_hf import convert_checkpoint


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
