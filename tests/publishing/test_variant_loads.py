"""A variant loads as remote code, in a process that cannot import the package, and as the installed classes."""

import json
import re
from pathlib import Path

import pytest
import skimage
from transformers import AutoModelForImageTextToText, AutoProcessor, LlavaForConditionalGeneration, LlavaProcessor

import divprune_hf
from tests.helpers import variant_report
from tests.helpers.tiny_models import IMAGE_TOKEN_ID, LANGUAGE_CONFIGS, NUM_IMAGE_TOKENS, TOWER_CONFIGS
from tests.helpers.variant_report import ANSWER_LENGTH, HEAD_CLASSES, answer, report


PHOTO = Path(skimage.data_dir) / "astronaut.png"
HEAD, INNER = "DivPruneLlavaForConditionalGeneration", "DivPruneLlavaModel"
# Which classes each way of loading ends in.
FIVE_TOKEN_WAYS = ["five_tokens", "config_and_five_tokens", "pipeline_five_tokens"]
ANSWERING_WAYS = [*HEAD_CLASSES, "device_map", "dtype", "pipeline", "selection_order", *FIVE_TOKEN_WAYS]
WAYS = {
    "AutoConfig": ["DivPruneLlavaConfig"],
    "AutoProcessor": ["DivPruneLlavaProcessor"],
    "AutoModel": [INNER],
    **{way: [HEAD, "DivPruneLlavaProcessor"] for way in ANSWERING_WAYS},
}


@pytest.fixture(scope="module")
def report_isolated(run_isolated):
    """`report(folder, photo, trust_remote_code=True)` of a process that cannot import the package."""
    code = Path(variant_report.__file__).read_text(encoding="utf-8")
    return lambda folder: json.loads(run_isolated(code, folder, PHOTO).splitlines()[-1])


@pytest.fixture(scope="module", params=[("clip", "llama"), ("siglip", "qwen2")], ids="-".join)
def reports(request, make_checkpoint, report_isolated, photos):
    """The reports of one variant, which keeps a quarter: as remote code, and in this process without the flag."""
    tower, language = request.param
    variant = make_checkpoint(tower=tower, language=language).variant
    return report_isolated(variant), report(variant, photos[0])


def module_and_name(origin):
    return origin.rpartition(".")[::2]


def num_placeholders(tokens):
    return tokens[:-ANSWER_LENGTH].count(IMAGE_TOKEN_ID)


def answer_of(entry):
    return entry["tokens"][-ANSWER_LENGTH:]


@pytest.mark.parametrize("way", WAYS)
def test_remote_code_answers_without_the_package(reports, way):
    remote, _ = reports
    modules, names = zip(*map(module_and_name, remote[way]["origins"]))
    assert list(names) == WAYS[way]
    assert all(module.startswith("transformers_modules.") for module in modules)


@pytest.mark.parametrize("way", WAYS)
def test_installed_classes_are_used_without_the_flag_after_import(reports, way):
    _, local = reports
    modules, names = zip(*map(module_and_name, local[way]["origins"]))
    assert list(names) == WAYS[way]
    assert all(module.startswith("divprune_hf.remote_code.") for module in modules)


@pytest.mark.parametrize("way", [way for way in WAYS if way != "AutoModel"])
def test_remote_code_answers_as_the_installed_classes_do(reports, way):
    remote, local = reports
    assert {**remote[way], "origins": None} == {**local[way], "origins": None}


def test_inner_model_of_remote_code_gives_the_hidden_states_of_the_installed_one(reports):
    remote, local = reports
    assert remote["AutoModel"]["values"] == pytest.approx(local["AutoModel"]["values"], rel=1e-4, abs=1e-5)


def test_ways_of_loading_agree_on_the_answer_of_the_stored_budget(reports):
    remote, _ = reports
    stored = {"retention_ratio": 0.25, "order": "raster"}
    assert remote["AutoConfig"]["budget"] == remote["AutoProcessor"]["budget"] == stored
    ways = [*HEAD_CLASSES, "device_map", "pipeline"]
    assert all(remote[way]["budgets"] == [stored, stored] for way in ways)
    assert all(remote[way]["tokens"] == remote[ways[0]]["tokens"] for way in ways)
    assert num_placeholders(remote[ways[0]]["tokens"]) == NUM_IMAGE_TOKENS // 4
    assert remote["dtype"]["dtype"] == "torch.bfloat16"


@pytest.mark.parametrize("way", FIVE_TOKEN_WAYS)
def test_budget_given_at_loading_replaces_the_stored_one(reports, way):
    remote, _ = reports
    five = {"num_tokens": 5, "order": "raster"}
    assert remote[way]["budgets"] == [five, five]
    assert num_placeholders(remote[way]["tokens"]) == 5
    assert remote[way]["tokens"] == remote["five_tokens"]["tokens"]
    assert answer_of(remote[way]) != answer_of(remote["AutoModelForImageTextToText"])


def test_order_given_at_loading_keeps_the_stored_budget(reports):
    remote, _ = reports
    selection = {"retention_ratio": 0.25, "order": "selection"}
    assert remote["selection_order"]["budgets"] == [selection, selection]
    assert num_placeholders(remote["selection_order"]["tokens"]) == NUM_IMAGE_TOKENS // 4
    assert answer_of(remote["selection_order"]) != answer_of(remote["AutoModelForImageTextToText"])


@pytest.mark.parametrize("entry", ["configuration_divprune", "processing_divprune", "modeling_divprune_llava"])
def test_entry_files_import_every_sibling_they_need_directly(make_checkpoint, entry):
    """transformers 4.57 ships the direct imports of an entry file, and not what these import in turn."""

    def siblings(module):
        code = (make_checkpoint().variant / f"{module}.py").read_text(encoding="utf-8")
        return set(re.findall(r"^\s*from \.(\w+) import", code, flags=re.MULTILINE))

    direct = siblings(entry)
    assert set().union(*map(siblings, direct)) <= direct


def test_folder_saved_from_the_installed_classes_loads_as_remote_code(
    make_checkpoint, report_isolated, photos, tmp_path
):
    variant = make_checkpoint().variant
    model = AutoModelForImageTextToText.from_pretrained(variant)
    processor = AutoProcessor.from_pretrained(variant)
    divprune_hf.set_budget(model, processor, num_tokens=7)
    expected = answer(model, processor, photos[0])
    assert expected != answer(model, processor, photos[0], num_tokens=8)

    model.save_pretrained(tmp_path / "saved")
    processor.save_pretrained(tmp_path / "saved")
    remote = report_isolated(tmp_path / "saved")
    assert all(o.startswith("transformers_modules.") for entry in remote.values() for o in entry["origins"])
    assert remote["AutoConfig"]["budget"] == remote["AutoProcessor"]["budget"] == {"num_tokens": 7, "order": "raster"}
    for way in (*HEAD_CLASSES, "pipeline"):
        assert remote[way]["tokens"] == expected
    assert num_placeholders(remote["five_tokens"]["tokens"]) == 5


@pytest.mark.parametrize("tower", TOWER_CONFIGS)
def test_saved_model_loads_whole_and_answers_alike(make_checkpoint, photos, tmp_path, tower):
    variant = make_checkpoint(tower=tower).variant
    model, processor = AutoModelForImageTextToText.from_pretrained(variant), AutoProcessor.from_pretrained(variant)
    for part in (model, processor):
        part.save_pretrained(tmp_path)
    loaded, loading = AutoModelForImageTextToText.from_pretrained(tmp_path, output_loading_info=True)
    assert not loading["missing_keys"] and not loading["unexpected_keys"]
    expected = answer(model, processor, photos[0])
    assert answer(loaded, AutoProcessor.from_pretrained(tmp_path), photos[0]) == expected
    assert answer(model, processor, photos[0], num_tokens=5) != expected


@pytest.mark.parametrize("language", LANGUAGE_CONFIGS)
@pytest.mark.parametrize("tower", TOWER_CONFIGS)
def test_every_tower_and_language_model_loads_whole_and_answers(make_checkpoint, photos, tower, language):
    checkpoint = make_checkpoint(tower=tower, language=language)
    model, loading = AutoModelForImageTextToText.from_pretrained(checkpoint.variant, output_loading_info=True)
    assert not loading["missing_keys"] and not loading["unexpected_keys"]
    processor = AutoProcessor.from_pretrained(checkpoint.variant)
    pruned = answer(model, processor, photos[0])
    assert num_placeholders(pruned) == NUM_IMAGE_TOKENS // 4

    stock, stock_processor = (
        c.from_pretrained(checkpoint.base) for c in (LlavaForConditionalGeneration, LlavaProcessor)
    )
    full = answer(model, processor, photos[0], retention_ratio=1.0)
    assert full == answer(stock, stock_processor, photos[0])
    assert full[-ANSWER_LENGTH:] != pruned[-ANSWER_LENGTH:]
