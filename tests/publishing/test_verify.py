"""Verifying compares the code of a published variant with the package's, and runs none of it."""

import json
import os

import pytest

from tests.helpers.folders import edit_json
from tests.helpers.hub_parts import BASE_ID


NAME = "org/lean-llava"
EVIL = b"open('ran', 'w')\n"


@pytest.fixture
def pushed(hub, converted):
    hub.succeed("push", converted, NAME)
    return hub.store.repos[NAME]


def test_what_push_makes_is_verified_at_its_tag(hub, pushed, converted):
    answer = hub.succeed("verify", NAME, "--revision", "v0.1.0")
    num_files = len(list(converted.glob("*.py")))
    assert (
        f"at commit {pushed.tags['v0.1.0']}: its {num_files} Python files are those of divprune_hf 0.1.0" in answer.out
    )
    assert not any(name.endswith(".safetensors") for name in hub.cached(NAME))  # no weights are downloaded
    assert "Python files are those" in hub.succeed("verify", converted).out


def changed_config(repo, **changes):
    return json.dumps({**json.loads(repo.files()["config.json"].content), **changes}).encode()


def kernels_below(repo):
    text_config = json.loads(repo.files()["config.json"].content)["text_config"]
    return changed_config(repo, text_config={**text_config, "attn_implementation": "paged|evil/kernels"})


CHANGES = {
    "changed": (lambda repo: {"processing_divprune.py": EVIL}, "processing_divprune.py differs"),
    "added": (lambda repo: {"evil.py": EVIL}, "evil.py is not one of ours"),
    "added_below": (lambda repo: {"more/evil.py": EVIL}, "more/evil.py is not one of ours"),
    "pickle": (lambda repo: {"pytorch_model.bin": EVIL}, "pytorch_model.bin can run code when it is loaded"),
    "pickle_below": (lambda repo: {"more/state.pkl": EVIL}, "more/state.pkl can run code when it is loaded"),
    "adapter": (
        lambda repo: {"adapter_config.json": b'{"base_model_name_or_path": "evil/repo"}'},
        "adapter_config.json can make transformers load another model",
    ),
    "adapter_weights": (
        lambda repo: {"adapter_model.safetensors": b"weights"},
        "adapter_model.safetensors can make transformers load another model",
    ),
    "kernels": (
        lambda repo: {"config.json": changed_config(repo, _attn_implementation="evil/kernels")},
        "evil/kernels",
    ),
    "kernels_of_a_part": (
        lambda repo: {"config.json": changed_config(repo, attn_implementation={"text_config": "evil/kernels:f"})},
        "evil/kernels:f",
    ),
    "kernels_below": (
        lambda repo: {"config.json": kernels_below(repo)},
        "evil/kernels",
    ),
    "elsewhere": (
        lambda repo: {"config.json": changed_config(repo, auto_map={"AutoConfig": "evil/repo--evil.Config"})},
        "config.json: auto_map",
    ),
    "tokenizer": (
        lambda repo: {"tokenizer_config.json": b'{"auto_map": {"AutoTokenizer": ["evil.Tokenizer", null]}}'},
        "evil.Tokenizer",
    ),
}


@pytest.mark.parametrize(("change", "reason"), CHANGES.values(), ids=CHANGES)
def test_what_was_changed_is_named_and_not_run(hub, pushed, change, reason):
    hub.store.fill(pushed, change(pushed))
    assert reason in hub.run("verify", NAME).error
    assert "Python files are those" in hub.succeed("verify", NAME, "--revision", "v0.1.0").out
    assert not os.path.exists("ran")


def test_a_missing_file_is_named(hub, pushed):
    pushed.commit("main", {path: blob for path, blob in pushed.files().items() if path != "max_min_fast.py"})
    assert "max_min_fast.py is missing" in hub.run("verify", NAME).error


def test_what_is_no_variant_is_refused(hub, converted, variant):
    assert "expected a variant" in hub.run("verify", BASE_ID).error
    assert "was not found on the Hub" in hub.run("verify", "org/nothing").error
    assert "only Hub repos have revisions" in hub.run("verify", converted, "--revision", "v0.1.0").error
    edit_json(variant / "config.json", model_type="llava")
    assert "expected a variant" in hub.run("verify", variant).error
