"""What is refused before anything leaves: foreign code, unfit weights, unclear licences, wrong targets, tokens."""

import json
import os
import shutil

import pytest

from tests.helpers.folders import edit_json, file_hashes
from tests.helpers.hub_parts import BASE_ID, STRANGER, commits
from tests.helpers.hub_store import Repo


NAME = "org/lean-llava"


def assert_refused(hub, reason, *arguments, **options):
    """The reason is given in one line, and the Hub has not been written to."""
    before = {name: (list(repo.log), dict(repo.tags), repo.private) for name, repo in hub.store.repos.items()}
    assert reason in hub.run("push", *arguments, **options).error
    assert {name: (repo.log, repo.tags, repo.private) for name, repo in hub.store.repos.items()} == before
    assert commits(hub) == 0


def change_code(variant):
    (variant / "pruning_divprune.py").write_text("open('ran', 'w')")


def add_code(variant):
    (variant / "evil.py").write_text("open('ran', 'w')")


def remove_code(variant):
    (variant / "max_min_fast.py").unlink()


def name_foreign_code(variant):
    edit_json(variant / "tokenizer_config.json", auto_map={"AutoTokenizer": "evil.Tokenizer"})


def name_code_elsewhere(variant):
    auto_map = json.loads((variant / "config.json").read_text())["auto_map"]
    edit_json(variant / "config.json", auto_map={key: f"evil/repo--{value}" for key, value in auto_map.items()})


def change_one_budget(variant):
    edit_json(variant / "processor_config.json", divprune_config={"num_tokens": 6, "order": "raster"})


def change_vocabulary(variant):
    text_config = json.loads((variant / "config.json").read_text())["text_config"]
    edit_json(variant / "config.json", text_config={**text_config, "vocab_size": 120})


def add_a_layer(variant):
    text_config = json.loads((variant / "config.json").read_text())["text_config"]
    edit_json(variant / "config.json", text_config={**text_config, "num_hidden_layers": 3})


def truncate_weights(variant):
    weights = variant / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])


def pickle_weights(variant):
    (variant / "model.safetensors").rename(variant / "pytorch_model.bin")


def add_adapter(variant):
    (variant / "adapter_config.json").write_text('{"base_model_name_or_path": "evil/repo"}')


def name_kernels(variant):
    edit_json(variant / "config.json", attn_implementation="evil/kernels")


def link_out(variant):
    (variant / "LICENSE").symlink_to("/etc/hostname")


def link_folder_out(variant):
    (variant / "more").symlink_to(variant.parent)


def put_token_into_card(variant):
    card = variant / "README.md"
    card.write_text(card.read_text() + f"\nmy token: {STRANGER}\n")


def break_metadata(variant):
    card = variant / "README.md"
    card.write_text(card.read_text().replace("pipeline_tag: image-text-to-text", "pipeline_tag: text-generation"))


def garble_base(variant):
    edit_json(variant / "config.json", divprune_base="llava")


REFUSALS = {
    "changed_code": (change_code, "pruning_divprune.py differs"),
    "added_code": (add_code, "evil.py is not one of ours"),
    "missing_code": (remove_code, "max_min_fast.py is missing"),
    "foreign_code_named": (name_foreign_code, "evil.Tokenizer"),
    "code_elsewhere": (name_code_elsewhere, "config.json: auto_map"),
    "kernels_elsewhere": (name_kernels, "evil/kernels"),
    "adapter": (add_adapter, "adapter_config.json, which can make transformers load another model"),
    "two_budgets": (change_one_budget, "processor_config.json: divprune_config"),
    "other_vocabulary": (change_vocabulary, "more tensors of shape (120, 32)"),
    "layer_without_weights": (add_a_layer, "does not fit its weights"),
    "garbled_base": (garble_base, "expected a repo_id and a commit"),
    "truncated_weights": (truncate_weights, "truncated or damaged"),
    "pickled_weights": (pickle_weights, "only pickled weights"),
    "link_out": (link_out, "leads out of the folder"),
    "linked_folder": (link_folder_out, "leads out of the folder"),
    "token_in_card": (put_token_into_card, "README.md holds a token"),
    "broken_metadata": (break_metadata, "pipeline_tag='text-generation'"),
}


@pytest.mark.parametrize(("change", "reason"), REFUSALS.values(), ids=REFUSALS)
def test_a_folder_that_is_no_clean_variant_is_refused(hub, variant, change, reason):
    change(variant)
    assert_refused(hub, reason, variant, NAME, load=True)
    assert NAME not in hub.store.repos
    assert not list(variant.parent.rglob("ran")) and not os.path.exists("ran")


def test_code_is_compared_before_anything_else_is_looked_at(hub, variant):
    for change in (change_code, change_vocabulary, truncate_weights, break_metadata):
        change(variant)
    assert_refused(hub, "pruning_divprune.py differs", variant, NAME, load=True)


def test_weights_that_do_not_load_are_refused(hub, family, tmp_path):
    """Shapes fit, names do not: only loading tells."""
    variant = shutil.copytree(family.variant, tmp_path / "variant")
    path = variant / "model.safetensors"
    path.write_bytes(path.read_bytes().replace(b"multi_modal_projector.linear_1", b"multi_modal_projector.linear_9"))
    reason = "its weights and its config do not fit"
    assert_refused(hub, reason, variant, NAME, "--license", "apache-2.0", load=True)


@pytest.mark.parametrize(
    ("name", "reason"),
    [("lean", "expected ORG/NAME"), ("org/a/b", "expected ORG/NAME"), ("org/le an", "expected ORG/NAME")],
)
def test_a_name_that_is_none_is_refused(hub, converted, name, reason):
    assert_refused(hub, reason, converted, name)


def test_what_is_no_variant_is_refused(hub, make_checkpoint, converted):
    assert_refused(hub, "does not hold the code of this package", make_checkpoint().base, NAME)
    assert_refused(hub, "is not a folder", converted / "none", NAME)


def test_the_base_is_never_a_target(hub, converted):
    assert_refused(hub, "is the base of this variant", converted, BASE_ID)
    assert_refused(hub, "is the base of this variant", converted, BASE_ID.upper())


def test_a_renamed_base_is_recognised(hub, converted):
    hub.store.repos["org/new-name"] = hub.store.repos[BASE_ID]  # the Hub answers with the id that a repo has now
    assert_refused(hub, "is the base of this variant", converted, "org/new-name")


def test_a_repo_with_another_model_is_no_target(hub, converted, make_checkpoint):
    hub.store.add(NAME, make_checkpoint().base, private=True)
    assert_refused(hub, "no variant made by divprune-hf", converted, NAME)
    for name in ("pytorch_model.bin", "model.pkl", "adapter_config.json"):
        hub.store.add(NAME, texts={name: b"a model's"}, private=True)
        assert_refused(hub, f"holds {name}", converted, NAME)


def test_a_repo_with_a_readme_and_a_licence_is_a_target(hub, converted):
    hub.store.add(NAME, texts={"README.md": b"# soon", "LICENSE": b"text"}, private=True)
    hub.succeed("push", converted, NAME)
    assert "LICENSE" in hub.store.repos[NAME].files()


def test_a_tag_is_no_branch(hub, converted):
    hub.store.repos[NAME] = Repo(NAME, private=True)
    hub.store.repos[NAME].tags["v1"] = hub.store.repos[NAME].log[0]
    assert_refused(hub, "expected a branch", converted, NAME, "--revision", "v1")


LICENCES = [
    (BASE_ID, ["--license", "mit"], "is under 'llama2'"),
    ("llava-hf/llava-interleave-qwen-0.5b-hf", [], "--license other"),
    ("org/unknown-llava", [], "--license apache-2.0"),
    ("org/unknown-llava", ["--license", "my-own"], "license='my-own'"),
    ("org/unknown-llava", ["--license", "other"], "license_name and license_link"),
]


@pytest.mark.parametrize(("base", "flags", "reason"), LICENCES, ids=lambda value: " ".join(value) if value else "-")
def test_a_licence_that_is_unclear_is_refused(hub, variant, base, flags, reason):
    edit_json(variant / "config.json", divprune_base={"repo_id": base, "commit": "0" * 40})
    assert_refused(hub, reason, variant, NAME, *flags)


def test_a_licence_that_has_to_be_named_is_taken_when_named(hub, variant):
    name = "llava-hf/llava-interleave-qwen-0.5b-hf"
    edit_json(variant / "config.json", divprune_base={"repo_id": name, "commit": "0" * 40})
    (variant / "README.md").unlink()
    hub.succeed("push", variant, NAME, "--license", "other")
    card = hub.store.repos[NAME].files()["README.md"].content.decode()
    assert "license_name: tongyi-qianwen-research" in card and "research and evaluation only" in card


def test_stray_files_stay_here_and_are_named(hub, variant):
    (variant / "examples").mkdir()
    for name in ("notes.txt", "training_args.bin", ".env", "examples/picture.png"):
        (variant / name).write_text("secret")
    before = file_hashes(variant)
    answer = hub.succeed("push", variant, NAME)
    assert "not pushed: .env, examples/picture.png, notes.txt, training_args.bin" in answer.out
    assert not {"notes.txt", "training_args.bin", ".env"} & set(hub.store.repos[NAME].files())
    assert file_hashes(variant) == before
