"""Files beside the configs: none that a variant does not have goes along, and none differs from the base's unsaid."""

import shutil
from pathlib import Path

import pytest

from divprune_hf import convert_checkpoint
from divprune_hf.inference.loading import load_pruned
from tests.helpers.folders import edit_json, load_json
from tests.helpers.hub_parts import BASE_ID, commits
from tests.helpers.hub_store import Repo


NAME = "org/lean-llava"


UNEXPECTED = {
    "audio_tokenizer_config.json": b'{"audio_tokenizer_class": "X", "audio_tokenizer_name_or_path": "evil/repo"}',
    "modules.json": b'[{"idx": 0, "type": "evil.Module", "path": ""}]',
    "config.4.0.0.json": b'{"auto_map": {"AutoConfig": "evil/repo--evil.Config"}}',
    "tokenizer.4.0.json": b"{}",
    "custom_generate/requirements.txt": b"evil",
    "custom_generate/generate.py": b"evil",
    "sub/folder/evil.py": b"evil",
    "LICENSE.py": b"evil",
    "pytorch_model.bin.index.json": b'{"weight_map": {"x": "evil.safetensors"}}',
    "pytorch_model.bin": b"evil",
    "LICENSE.pkl": b"evil",
    "tf_model.h5": b"evil",
    "flax_model.msgpack": b"evil",
    "model.gguf": b"evil",
    "adapter_config.json": b'{"base_model_name_or_path": "evil/repo"}',
    "adapter_model.safetensors": b"evil",
    "more.safetensors": b"evil",
    "evil.so": b"evil",
    "evil.PY": b"evil",
    "setup.cfg": b"evil",
    "requirements.txt": b"evil",
    "params.json": b"{}",
    "tekken.json": b"{}",
    "vocab.pkl": b"evil",
    "1_Pooling/config.json": b"{}",
}


@pytest.mark.parametrize("name", UNEXPECTED)
def test_a_file_that_no_variant_has_is_named_and_never_goes_along(hub, variant, base, tmp_path, name):
    for folder in (variant, base):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(UNEXPECTED[name])
    assert name in hub.run("verify", variant).error
    hub.store.add(NAME, variant)
    assert name in hub.run("verify", NAME).error
    assert not (convert_checkpoint(base, tmp_path / "out") / name).exists()
    hub.store.repos.pop(NAME)
    followed = name in ("audio_tokenizer_config.json", "modules.json", "config.4.0.0.json")
    answer = hub.run("push", variant, NAME, "--dry-run", load=followed)
    if name.endswith(".py") or name.startswith("adapter"):
        assert name in answer.error
    else:  # it stays behind, and the load check does not follow it either
        assert answer.code == 0 and f"not pushed: {name}" in answer.out, answer.err


INDEXES = {
    "pickle": {"x": "evil.bin"},
    "pickle_by_another_name": {"x": "evil.safetensors.pkl"},
    "numpy": {"x": "evil.npz"},
    "no_name": {"x": ""},
    "number": {"x": 7},
    "elsewhere": {"x": "../evil.safetensors"},
    "absolute": {"x": "/evil.safetensors"},
    "not_there": {"x": "evil.safetensors"},
    "nothing": {},
    "a_list": ["evil.bin"],
}


@pytest.mark.parametrize("weight_map", INDEXES.values(), ids=INDEXES)
def test_an_index_that_reaches_anything_but_safetensors_is_refused(
    hub, make_checkpoint, sharded_base, tmp_path, weight_map
):
    variant = shutil.copytree(make_checkpoint(num_shards=3).variant, tmp_path / "sharded")
    for folder in (variant, sharded_base):
        index = folder / "model.safetensors.index.json"
        old = load_json(index)["weight_map"]
        edit_json(
            index, weight_map={**old, **weight_map} if isinstance(weight_map, dict) and weight_map else weight_map
        )
        (folder / "evil.bin").write_bytes(b"evil")
    with pytest.raises(ValueError, match="model.safetensors.index.json|evil.safetensors"):
        convert_checkpoint(sharded_base, tmp_path / "out")
    with pytest.raises(ValueError, match="model.safetensors.index.json|evil.safetensors"):
        load_pruned(sharded_base)
    (variant / "evil.bin").unlink()
    assert "safetensors" in hub.run("push", variant, NAME, "--license", "mit").error
    assert "safetensors" in hub.run("verify", variant).error
    hub.store.add(NAME, variant)
    assert "safetensors" in hub.run("verify", NAME).error
    assert not hub.store.repos[NAME].tags and commits(hub) == 0


def add_template(folder):
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "evil.jinja").write_text("evil")


TEMPLATES = {
    "jinja": lambda folder: (folder / "chat_template.jinja").write_text("evil"),
    "json": lambda folder: (folder / "chat_template.json").write_text('{"chat_template": "evil"}'),
    "additional": add_template,
    "tokenizer": lambda folder: edit_json(folder / "tokenizer_config.json", chat_template="evil"),
    "tokenizer_by_name": lambda folder: edit_json(
        folder / "tokenizer_config.json", chat_template=[{"name": "default", "template": "evil"}]
    ),
    "processor": lambda folder: edit_json(folder / "processor_config.json", chat_template={"default": "evil"}),
}


def change_weights(folder):
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("trained", [False, True], ids=["weights_of_the_base", "other_weights"])
@pytest.mark.parametrize("change", TEMPLATES.values(), ids=TEMPLATES)
def test_a_chat_template_that_is_not_the_bases_is_refused(hub, variant, change, trained):
    change(variant)
    if trained:
        change_weights(variant)
        (variant / "README.md").unlink()
    assert "chat template" in hub.run("push", variant, NAME).error and NAME not in hub.store.repos
    assert "chat template" in hub.run("verify", variant).error
    hub.store.add(NAME, variant)
    assert "chat template" in hub.run("verify", NAME).error


DATA = {
    "tokenizer.json": lambda file: file.write_text(file.read_text().replace('"w1"', '"evil"')),
    "generation_config.json": lambda file: edit_json(file, max_new_tokens=100_000),
    "tokenizer_config.json": lambda file: edit_json(file, eos_token="w1"),
    "config.json": lambda file: edit_json(file, image_token_index=7),
    "processor_config.json": lambda file: edit_json(file, image_token="w1"),
    "merges.txt": lambda file: file.write_text("evil"),
}


@pytest.mark.parametrize("name", DATA)
def test_data_that_is_not_the_bases_is_refused_beside_its_weights_and_noted_beside_others(hub, variant, name):
    DATA[name](variant / name)
    assert f"{name} is not what convert writes from {BASE_ID}" in hub.run("verify", variant).error
    assert name in hub.run("push", variant, NAME).error and NAME not in hub.store.repos
    hub.store.add(NAME, variant)
    assert name in hub.run("verify", NAME).error
    change_weights(variant)
    out = hub.succeed("verify", variant).out
    assert "weights are not those of" in out and f"Note: {name} is not what convert writes" in out


def test_a_base_that_cannot_be_reached_is_said(hub, variant):
    hub.store.repos.pop(BASE_ID)
    shutil.rmtree(Path(hub.environment["HF_HOME"], "hub", "models--" + BASE_ID.replace("/", "--")), ignore_errors=True)
    assert f"its base {BASE_ID} could not be looked at" in hub.succeed("verify", variant).out
    hub.store.repos[BASE_ID] = Repo(BASE_ID)
