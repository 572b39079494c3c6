"""The load check: a variant's own code, in a process of its own, with weights or on the meta device."""

import shutil

import pytest
from folders import edit_json, load_json

from divprune_hf.publishing import checks


@pytest.fixture(params=["llava", "llava_next"])
def any_variant(request, make_checkpoint, tmp_path):
    return shutil.copytree(make_checkpoint(family=request.param).variant, tmp_path / "variant")


@pytest.mark.parametrize("has_weights", [True, False], ids=["weights", "meta"])
def test_a_variant_of_each_family_answers(any_variant, has_weights):
    if not has_weights:
        (any_variant / "model.safetensors").unlink()
    checks.check_loads(any_variant, 1, has_weights)


def test_a_large_model_is_checked_without_its_weights(make_checkpoint, tmp_path):
    """The sizes of a 7B language model: 27 GB in float32, none of which is allocated."""
    variant = shutil.copytree(make_checkpoint().variant, tmp_path / "variant")
    (variant / "model.safetensors").write_bytes(b"never read")
    sizes = {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32}
    text_config = {**load_json(variant / "config.json")["text_config"], **sizes, "head_dim": 128}
    edit_json(variant / "config.json", text_config=text_config)
    checks.check_loads(variant, checks.LARGEST_TO_LOAD + 1)


def test_what_does_not_load_is_refused_with_the_reason(make_checkpoint, tmp_path):
    variant = shutil.copytree(make_checkpoint().variant, tmp_path / "variant")
    (variant / "tokenizer.json").write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match="does not load as remote code: .+"):
        checks.check_loads(variant, 1)


def test_the_process_that_loads_gets_no_token(family, tmp_path, monkeypatch):
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.setenv(name, "hf_" + "x" * 34)
    script = tmp_path / "spy.py"
    script.write_text("import os\nraise SystemExit('tokens: %s' % [name for name in os.environ if 'TOKEN' in name])\n")
    monkeypatch.setattr(checks.load_check, "__file__", str(script))
    with pytest.raises(ValueError, match=r"tokens: \[\]"):
        checks.check_loads(family.variant, 1)
