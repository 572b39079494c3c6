"""What engines read of a model before it runs: vLLM's and SGLang's Transformers backends ask for the same things."""

import importlib.util
import inspect
import json
from typing import get_args, get_type_hints

import pytest
import torch
import transformers
from transformers import AutoConfig, AutoModel, AutoProcessor

from divprune_hf.checkpoints.families import FAMILIES
from divprune_hf.engines import vllm as plugin
from divprune_hf.remote_code.settings import PER_CALL, VIDEO_BUDGET
from scripts.next_release import project


# vLLM 0.24 and later, and SGLang 0.5, need transformers 5.
needs_5 = pytest.mark.skipif(not hasattr(transformers.ProcessorMixin, "_process_images"), reason="needs transformers 5")


@pytest.fixture(scope="module", params=["llava", "llava_next"])
def folder(request, make_checkpoint):
    return make_checkpoint(family=request.param).variant


def test_the_plugin_is_declared():
    (declared,) = project()["entry-points"]["vllm.general_plugins"].values()
    module, function = declared.split(":")
    assert getattr(importlib.import_module(module), function) is plugin.register
    assert importlib.util.find_spec(plugin.MODEL.split(":")[0])


def test_architecture_and_classes_are_named_as_engines_look_them_up(folder):
    config = json.loads((folder / "config.json").read_text())
    (architecture,) = config["architectures"]
    # Not a stock name: an engine's own implementation of that would run unpruned.
    assert architecture.startswith("DivPrune") and not hasattr(transformers, architecture)
    base_class = config["auto_map"]["AutoModel"].split(".")[-1]
    assert base_class == architecture.replace("ForConditionalGeneration", "Model")
    assert {f"{family.names.prefix}ForConditionalGeneration" for family in FAMILIES.values()} >= {architecture}


@needs_5
def test_features_are_a_list_with_one_entry_per_picture(folder, photos):
    model = AutoModel.from_pretrained(folder, dtype=torch.float32)
    processor = AutoProcessor.from_pretrained(folder)
    inputs = processor(images=photos, text="w1 <image> w2 <image>", num_tokens=7, return_tensors="pt")
    pictures = {name: inputs[name] for name in inputs if name not in ("input_ids", "attention_mask")}
    assert all(len(value) == len(photos) for value in pictures.values())  # engines cut each by pictures
    features = model.get_image_features(**pictures, return_dict=True).pooler_output
    assert isinstance(features, list) and [len(kept) for kept in features] == [7, 7]
    # They are cached by picture: a neighbour changes nothing.
    for i, kept in enumerate(features):
        alone = {name: value[i : i + 1] for name, value in pictures.items()}
        assert torch.allclose(model.get_image_features(**alone, return_dict=True).pooler_output[0], kept, atol=1e-5)


@needs_5
def test_placeholders_are_found_by_offsets_and_counted_beforehand(folder, photos):
    processor = AutoProcessor.from_pretrained(folder)
    call = {"images": photos, "text": f"w1 {processor.image_token} w2 {processor.image_token}"}
    output = processor(**call, return_text_replacement_offsets=True, return_mm_token_type_ids=True)
    (offsets,) = output["text_replacement_offsets"]
    replaced = [entry["replacement"].count(processor.image_token) for entry in offsets]
    counted = processor._get_num_multimodal_tokens(image_sizes=[photo.size[::-1] for photo in photos])
    assert replaced == list(output["num_image_tokens_kept"]) == counted["num_image_tokens"]
    assert counted["num_image_patches"] == [1, 1]
    assert sum(output["mm_token_type_ids"][0]) == sum(replaced)


@needs_5
@pytest.mark.parametrize("arguments", [{"num_tokens": 9}, {"images_kwargs": {"num_tokens": 9}}], ids=str)
def test_the_arguments_of_a_start_are_counted_with(folder, arguments):
    processor = AutoProcessor.from_pretrained(folder)
    given = repr(arguments)
    counted = processor._get_num_multimodal_tokens(image_sizes=[(24, 24), (240, 240)], **arguments)
    assert counted["num_image_tokens"] == [9, 9] and repr(arguments) == given
    for wrong in ({"num_token": 9}, {"order": "selection"}, {"images_kwargs": {"num_token": 9}}):
        with pytest.raises(ValueError, match=f"Got {'order' if 'order' in wrong else 'num_token'}="):
            processor._get_num_multimodal_tokens(image_sizes=[(24, 24)], **wrong)


@needs_5
def test_the_budget_is_an_argument_of_the_call_and_not_of_loading(folder):
    # vLLM reads this annotation; what is not named there it takes for an argument that a new processor is loaded with.
    processor = AutoProcessor.from_pretrained(folder)
    (arguments,) = get_args(inspect.signature(type(processor).__call__).parameters["kwargs"].annotation)
    images_kwargs = get_type_hints(arguments)["images_kwargs"]
    assert set(PER_CALL) - set(VIDEO_BUDGET) <= set(images_kwargs.__annotations__)


def test_the_model_says_that_it_takes_an_engines_attention(folder):
    config = AutoConfig.from_pretrained(folder)
    model = AutoModel.from_config(config)
    assert model.is_backend_compatible() and model.get_input_embeddings() is not None
