"""`DivPruneConfig` and the family configs: validated, merged, saved and loaded."""

import copy
import json
import math
import pickle

import pytest
from transformers import AutoConfig, CLIPVisionConfig

from divprune_hf import DivPruneConfig, DivPruneLlavaConfig
from tests.helpers.tiny_models import tiny_config


pytestmark = pytest.mark.modeling


def block(config):
    return config.to_block()


def test_the_default_is_the_papers_budget():
    assert block(DivPruneConfig()) == {"retention_ratio": 0.098, "order": "raster"}


def test_a_number_of_tokens_replaces_the_default_ratio():
    assert block(DivPruneConfig(num_tokens=64)) == {"num_tokens": 64, "order": "raster"}


def test_an_int_ratio_works():
    assert block(DivPruneConfig(retention_ratio=1))["retention_ratio"] == 1.0


@pytest.mark.parametrize(
    "settings",
    [
        {"retention_ratio": 0},
        {"retention_ratio": -1},
        {"retention_ratio": 1.2},
        {"retention_ratio": math.nan},
        {"retention_ratio": "0.1"},
        {"num_tokens": 0},
        {"num_tokens": 1.5},
        {"num_tokens": 5, "retention_ratio": 0.5},
        {"order": "random"},
        {"selector": "divprune"},
        {"seed": -1},
        {"seed": 2**32},
        {"seed": 0.5},
        {"seed": True},
        {"retention": 0.1},
        {"hidden_size": 4},
    ],
    ids=str,
)
def test_impossible_settings_are_refused_by_name(settings):
    name = next(iter(settings))
    with pytest.raises(ValueError, match=name):
        DivPruneConfig(**settings)
    with pytest.raises(ValueError, match=name):
        DivPruneLlavaConfig(divprune_config=settings)


@pytest.mark.parametrize("bad", [0.5, "0.5", [0.5]], ids=repr)
def test_a_divprune_config_is_a_dict_or_a_config(bad):
    with pytest.raises(ValueError, match="expected a dict or a DivPruneConfig"):
        DivPruneLlavaConfig(divprune_config=bad)


@pytest.mark.parametrize(
    ("stored", "override", "merged"),
    [
        (None, None, {"retention_ratio": 0.098, "order": "raster"}),
        ({"num_tokens": 7}, {"order": "selection"}, {"num_tokens": 7, "order": "selection"}),
        (
            {"num_tokens": 7, "order": "selection"},
            {"retention_ratio": 0.5},
            {"retention_ratio": 0.5, "order": "selection"},
        ),
        ({"retention_ratio": 0.5}, {"num_tokens": 7}, {"num_tokens": 7, "order": "raster"}),
        ({"num_tokens": 7}, {"retention_ratio": None, "num_tokens": None}, {"num_tokens": 7, "order": "raster"}),
        ({"num_tokens": 7, "order": "selection"}, DivPruneConfig(num_tokens=9), {"num_tokens": 9, "order": "raster"}),
        (
            {"num_tokens": 7, "selector": "random", "seed": 5},
            {"retention_ratio": 0.5},
            {"retention_ratio": 0.5, "order": "raster", "selector": "random", "seed": 5},
        ),
        ({"num_tokens": 7, "selector": "random"}, {"selector": "max_min"}, {"num_tokens": 7, "order": "raster"}),
        ({"selector": "uniform"}, DivPruneConfig(num_tokens=9), {"num_tokens": 9, "order": "raster"}),
        (DivPruneConfig(num_tokens=9), {"order": "selection"}, {"num_tokens": 9, "order": "selection"}),
    ],
    ids=lambda value: "config" if isinstance(value, DivPruneConfig) else str(value),
)
def test_an_override_updates_and_one_budget_clears_the_other(stored, override, merged):
    assert block(DivPruneConfig.merged(stored, override)) == merged


def make_config(divprune_config):
    base = tiny_config()
    return DivPruneLlavaConfig(
        vision_config=base.vision_config, text_config=base.text_config, divprune_config=divprune_config
    )


@pytest.mark.parametrize(
    "settings",
    [{}, {"num_tokens": 64}, {"retention_ratio": 0.5, "order": "selection"}, {"selector": "random", "seed": 7}],
    ids=str,
)
def test_a_config_survives_saving(tmp_path, settings):
    config = make_config(settings)
    config.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["divprune_config"] == block(DivPruneConfig(**settings))
    again = AutoConfig.from_pretrained(tmp_path)
    assert type(again) is DivPruneLlavaConfig
    assert block(again.divprune_config) == block(DivPruneConfig(**settings))
    assert isinstance(again.vision_config, CLIPVisionConfig) and again.text_config.hidden_size == 32


@pytest.mark.parametrize(
    ("override", "budget"),
    [
        ({"num_tokens": 64}, {"num_tokens": 64, "order": "selection"}),
        ({"order": "raster"}, {"retention_ratio": 0.5, "order": "raster"}),
    ],
    ids=str,
)
def test_an_override_while_loading_updates_what_is_stored(tmp_path, override, budget):
    make_config({"retention_ratio": 0.5, "order": "selection"}).save_pretrained(tmp_path)
    config, unused = AutoConfig.from_pretrained(tmp_path, divprune_config=override, return_unused_kwargs=True)
    assert block(config.divprune_config) == budget and "divprune_config" not in unused


@pytest.mark.parametrize("name", ["num_tokens", "retention_ratio", "video_num_tokens", "video_retention_ratio"])
def test_a_budget_set_on_a_finished_config_is_refused(name):
    # The processor would not learn of it, and its counts win.
    config = DivPruneConfig(retention_ratio=0.5)
    with pytest.raises(ValueError, match=rf"Got {name}=1 for the config of a model alone.*set_budget.*in vLLM"):
        setattr(config, name, 1)
    assert config.budget == {"retention_ratio": 0.5, "num_tokens": None}


def test_only_settings_are_set_on_a_finished_config():
    config = DivPruneConfig()
    with pytest.raises(ValueError, match="Got divprune setting 'num_token', expected one of"):
        config.num_token = 5
    config.order = "selection"
    copied = pickle.loads(pickle.dumps(copy.deepcopy(config)))
    assert copied.to_block() == config.to_block() and copied.order == "selection"
    with pytest.raises(ValueError, match="Got num_tokens=5"):
        copied.num_tokens = 5


def test_attention_and_dtype_settings_do_not_reach_the_budget():
    config = make_config({"num_tokens": 3})
    config._attn_implementation = "eager"
    assert "divprune_config" not in config.sub_configs
    assert block(config.divprune_config) == {"num_tokens": 3, "order": "raster"}
    assert DivPruneConfig().to_dict().keys() == {"retention_ratio", "order", "transformers_version"}


@pytest.mark.parametrize(("version", "refused"), [("5.5.0", True), ("4.56.2", True), ("4.57.1", False)])
def test_transformers_without_what_is_needed_is_refused_by_name(family, run_isolated, version, refused):
    """A process that looks like another transformers: no processor hook, another version."""
    code = f"""
from transformers import AutoConfig
from transformers.processing_utils import ProcessorMixin
if hasattr(ProcessorMixin, "_process_images"):
    del ProcessorMixin._process_images
sys.modules["transformers"].__version__ = "{version}"  # the lazy module that remote code gets
try:
    AutoConfig.from_pretrained(sys.argv[1], trust_remote_code=True)
    print("loaded")
except ImportError as error:
    print(error)
"""
    output = run_isolated(code, family.variant)
    if refused:
        assert f"need transformers 4.57, or 5.10 and later; found {version}" in output
    else:
        assert output.strip().endswith("loaded")
