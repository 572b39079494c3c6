"""The load check: a variant's own code, in a process of its own, with weights or on the meta device."""

import shutil

import pytest

from divprune_hf import keep_count
from divprune_hf.checkpoints.files import tensor_shapes, weight_files
from divprune_hf.publishing import checks
from tests.helpers import warm_python
from tests.helpers.folders import edit_json, load_json


@pytest.mark.parametrize(
    "kind",
    [
        {"family": "llava_next"},
        {"family": "llava_next_video"},
        {"tower": "siglip", "language": "qwen2"},
        {"tower": "dinov2", "language": "mistral"},
        {"layout": "module"},
        {"num_shards": 3},
    ],
    ids=lambda kind: "-".join(map(str, kind.values())),
)
def test_configs_fit_the_headers_of_every_kind_of_checkpoint(request, make_checkpoint, kind):
    if kind.get("family") == "llava_next_video":
        request.getfixturevalue("video_files")  # skips where such a checkpoint cannot be made
    variant = make_checkpoint(**kind).variant
    shapes = tensor_shapes(variant, weight_files(variant))
    checks.check_configs(variant, shapes)
    with pytest.raises(ValueError, match="does not fit its weights: the model needs 1 more tensors of shape"):
        checks.check_configs(variant, shapes[:-1])


@pytest.mark.parametrize("has_weights", [True, False], ids=["weights", "meta"])
def test_a_variant_with_crops_answers(make_checkpoint, tmp_path, has_weights):
    """LLaVA-1.6; the tests of push and publish load LLaVA-1.5."""
    variant = shutil.copytree(make_checkpoint(family="llava_next").variant, tmp_path / "variant")
    if not has_weights:
        (variant / "model.safetensors").unlink()
    checks.check_loads(variant, 1, has_weights)


@pytest.fixture
def warm(monkeypatch):
    """Processes that load a variant are forked; the test before starts them as the product does."""
    monkeypatch.setattr(checks, "subprocess", warm_python)


@pytest.mark.parametrize("has_weights", [True, False], ids=["weights", "meta"])
def test_a_variant_with_videos_is_asked_about_one(warm, video_files, make_checkpoint, tmp_path, has_weights):
    variant = shutil.copytree(make_checkpoint(family="llava_next_video").variant, tmp_path / "variant")
    if not has_weights:
        (variant / "model.safetensors").unlink()
    answers = checks.check_loads(variant, 1, has_weights)["answers"]
    # Two frames of 24 x 24 pixels with patches of 4, pooled by 2, make 2 * 3 * 3 tokens, of which a tenth is kept.
    assert answers.keys() == {"image", "video"} and answers["video"]["kept"] == [keep_count(18, retention_ratio=0.1)]


def test_a_large_model_is_checked_without_its_weights(warm, make_checkpoint, tmp_path):
    """The sizes of a 7B language model: 27 GB in float32, none of which is allocated."""
    variant = shutil.copytree(make_checkpoint().variant, tmp_path / "variant")
    (variant / "model.safetensors").write_bytes(b"never read")
    sizes = {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32}
    text_config = {**load_json(variant / "config.json")["text_config"], **sizes, "head_dim": 128}
    edit_json(variant / "config.json", text_config=text_config)
    checks.check_loads(variant, checks.LARGEST_TO_LOAD + 1)


def test_what_does_not_load_is_refused_with_the_reason(warm, make_checkpoint, tmp_path):
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
