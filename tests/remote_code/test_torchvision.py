"""LLaVA-NeXT-Video where torchvision is missing or was built for another torch: pictures work, videos say what to do."""

import json
import sys
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForImageTextToText, AutoProcessor

import divprune_hf
from divprune_hf.remote_code.missing_torchvision import check_torchvision
from tests.helpers.tiny_models import FAMILY_CLASSES, GRID, PATCH_SIZE, llava_hf_keys, tiny_model, tiny_tokenizer


pytestmark = pytest.mark.modeling


@pytest.fixture(scope="module")
def variant(tmp_path_factory):
    """A variant whose files were made without a video processor."""
    base = tmp_path_factory.mktemp("base")
    model = tiny_model(family="llava_next_video")
    model.config.save_pretrained(base)
    save_file({k: v.contiguous() for k, v in llava_hf_keys(model.state_dict()).items()}, base / "model.safetensors")
    tiny_tokenizer("llava_next_video").save_pretrained(base)
    size = {"height": 24, "width": 24}
    image_processor = FAMILY_CLASSES["llava_next"][3](size={"shortest_edge": 24}, crop_size=size, **GRID)
    image_processor.save_pretrained(base)
    settings = {"patch_size": PATCH_SIZE, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    settings["processor_class"] = "LlavaNextVideoProcessor"
    (base / "processor_config.json").write_text(json.dumps(settings))
    return divprune_hf.convert_checkpoint(base, base.parent / "variant")


@pytest.fixture
def no_torchvision(monkeypatch):
    """A process where torchvision cannot be imported; where it is missing anyway nothing changes."""
    monkeypatch.setitem(sys.modules, "torchvision", None)


def test_pictures_need_no_torchvision(variant, photos, no_torchvision, tmp_path):
    model = AutoModelForImageTextToText.from_pretrained(variant, dtype=torch.float32)
    processor = AutoProcessor.from_pretrained(variant)
    assert type(processor.video_processor).__name__ == "MissingVideoProcessor" and repr(processor)
    inputs = processor(images=photos[0], text="w1 <image> w2", num_tokens=7, return_tensors="pt")
    assert inputs["num_image_tokens_kept"].tolist() == [7]
    assert model.generate(**inputs, max_new_tokens=2, min_new_tokens=2).shape[1] == inputs["input_ids"].shape[1] + 2
    counts = processor._get_num_multimodal_tokens(image_sizes=[photos[0].size[::-1]], video_sizes=[(8, 24, 24)])
    assert len(counts["num_image_tokens"]) == 1 and counts["num_video_tokens"] is None


def test_videos_say_what_to_install(variant, no_torchvision, tmp_path):
    processor = AutoProcessor.from_pretrained(variant)
    clip = np.zeros((2, 24, 24, 3), dtype=np.uint8)
    with pytest.raises(ImportError, match="Videos of LLaVA-NeXT-Video need.*pip install -U torch torchvision"):
        processor(videos=clip, text="w1 <video> w2")
    with pytest.raises(ImportError, match="pip install -U torch torchvision"):
        processor.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


@pytest.mark.skipif(find_spec("torchvision") is None, reason="compares with torchvision")
def test_pictures_are_processed_the_same_with_torchvision(make_checkpoint, photos, monkeypatch):
    folder = make_checkpoint(family="llava_next_video").variant
    call = {"images": photos, "text": ["w1 <image> w2", "w3 <image>"], "padding": True, "return_tensors": "pt"}
    with_torchvision = AutoProcessor.from_pretrained(folder)(**call)
    monkeypatch.setitem(sys.modules, "torchvision", None)
    without = AutoProcessor.from_pretrained(folder)
    assert type(without.video_processor).__name__ == "MissingVideoProcessor"
    without = without(**call)
    assert without.keys() == with_torchvision.keys()
    assert all(torch.equal(without[name], with_torchvision[name]) for name in without)


def test_a_missing_torchvision_is_named(no_torchvision):
    with pytest.raises(ImportError, match="Install both together: pip install -U torch torchvision"):
        check_torchvision()


def test_a_torchvision_built_for_another_torch_is_named(monkeypatch, tmp_path):
    (tmp_path / "torchvision.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    with pytest.raises(ImportError, match="nms does not exist.*pip install -U torch torchvision"):
        check_torchvision()
