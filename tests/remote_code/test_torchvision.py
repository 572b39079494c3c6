"""Families that take videos, where torchvision is missing or unfit: pictures work, videos say what to install."""

import sys
from importlib.util import find_spec

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

import divprune_hf
from divprune_hf.checkpoints.families import supported_families
from divprune_hf.remote_code.missing_torchvision import check_torchvision
from tests.helpers.tiny_models import FAMILY_CLASSES, save_tiny_base_for_pictures


pytestmark = pytest.mark.modeling


FAMILIES = [family.base_model_type for family in supported_families() if family.takes_videos]


@pytest.fixture(scope="module", params=FAMILIES)
def variant(request, tmp_path_factory):
    """A variant of a family that takes videos, whose files were made without a video processor."""
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "base").mkdir()
    save_tiny_base_for_pictures(folder / "base", request.param)
    return divprune_hf.convert_checkpoint(folder / "base", folder / "variant")


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
    with pytest.raises(ImportError, match="Videos need a torchvision.*pip install -U torch torchvision"):
        processor(videos=clip, text="w1 <video> w2")
    with pytest.raises(ImportError, match="pip install -U torch torchvision"):
        processor.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


@pytest.mark.skipif(find_spec("torchvision") is None, reason="compares with torchvision")
@pytest.mark.parametrize("family", FAMILIES)
def test_pictures_are_processed_the_same_with_torchvision(make_checkpoint, photos, monkeypatch, family):
    folder = make_checkpoint(family=family).variant
    call = {"images": photos, "text": ["w1 <image> w2", "w3 <image>"], "padding": True, "return_tensors": "pt"}
    with_torchvision = AutoProcessor.from_pretrained(folder)(**call)
    monkeypatch.setitem(sys.modules, "torchvision", None)
    without = AutoProcessor.from_pretrained(folder)
    assert type(without.video_processor).__name__ == "MissingVideoProcessor"
    without = without(**call)
    assert without.keys() == with_torchvision.keys()
    assert all(torch.equal(without[name], with_torchvision[name]) for name in without)


@pytest.mark.parametrize("backend", ["Pillow", "torchvision"])
@pytest.mark.parametrize("family", FAMILY_CLASSES)
def test_pixels_are_the_stock_processors_with_each_kind_of_image_processor(make_checkpoint, photos, family, backend):
    if backend == "torchvision" or family in FAMILIES:
        pytest.importorskip("torchvision", reason="the fast image processors and that of videos need it")
    made = make_checkpoint(family=family)
    name = FAMILY_CLASSES[family][3].__name__.removesuffix("Pil").removesuffix("Fast")
    of_release = ("Pil", "") if hasattr(transformers, f"{name}Pil") else ("", "Fast")
    image_processor = getattr(transformers, name + of_release[backend == "torchvision"]).from_pretrained(made.base)
    thin = Image.effect_noise((40, 3), 50).convert("RGB")  # of a shape that could be three channels of a row
    for pictures in ([photos[0]], [thin]) if backend == "torchvision" else ([photos[0]],):
        pixels = []
        for folder in (made.base, made.variant):
            processor = AutoProcessor.from_pretrained(folder)
            processor.image_processor = image_processor
            pixels.append(processor(images=pictures, text="w1 <image> w2", return_tensors="pt")["pixel_values"])
        assert torch.equal(*pixels) and pixels[0].shape[-3] == 3


def test_a_missing_torchvision_is_named(no_torchvision):
    with pytest.raises(ImportError, match="Install both together: pip install -U torch torchvision"):
        check_torchvision()


def test_a_torchvision_built_for_another_torch_is_named(monkeypatch, tmp_path):
    (tmp_path / "torchvision.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    with pytest.raises(ImportError, match="nms does not exist.*pip install -U torch torchvision"):
        check_torchvision()
