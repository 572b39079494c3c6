"""What LLaVA-NeXT-Video says where torchvision is missing or was built for another torch."""

import json
import sys
from importlib.util import find_spec

import pytest
from safetensors.torch import save_file
from transformers import AutoModelForImageTextToText, AutoProcessor, CLIPImageProcessor

import divprune_hf
from divprune_hf.remote_code.processing_divprune_video import check_torchvision
from tests.helpers.tiny_models import llava_hf_keys, tiny_model, tiny_tokenizer


pytestmark = pytest.mark.modeling


@pytest.fixture(scope="module")
def variant(tmp_path_factory):
    """A variant whose files were made without a video processor."""
    base = tmp_path_factory.mktemp("base")
    model = tiny_model(family="llava_next_video")
    model.config.save_pretrained(base)
    save_file({k: v.contiguous() for k, v in llava_hf_keys(model.state_dict()).items()}, base / "model.safetensors")
    tiny_tokenizer("llava_next_video").save_pretrained(base)
    CLIPImageProcessor().save_pretrained(base)
    (base / "processor_config.json").write_text(json.dumps({"processor_class": "LlavaNextVideoProcessor"}))
    return divprune_hf.convert_checkpoint(base, base.parent / "variant")


@pytest.mark.skipif(find_spec("torchvision") is not None, reason="this is what happens without torchvision")
def test_without_torchvision_the_processor_says_what_to_install(variant):
    assert AutoModelForImageTextToText.from_pretrained(variant).config.model_type == "divprune_llava_next_video"
    with pytest.raises(ImportError, match="pip install -U torch torchvision"):
        AutoProcessor.from_pretrained(variant)


def test_a_missing_torchvision_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(ImportError, match="Install both together: pip install -U torch torchvision"):
        check_torchvision()


def test_a_torchvision_built_for_another_torch_is_named(monkeypatch, tmp_path):
    (tmp_path / "torchvision.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    with pytest.raises(ImportError, match="nms does not exist.*pip install -U torch torchvision"):
        check_torchvision()
