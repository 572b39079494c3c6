"""What a variant holds: the base's weights and tokenizer, edited configs, our code and our card."""

import os
import shutil
from importlib import resources
from pathlib import Path

import pytest

from divprune_hf import DivPruneConfig, convert_checkpoint
from divprune_hf.remote_code.transformers_surface import TESTED_TRANSFORMERS
from tests.helpers.folders import edit_json, file_hashes, load_json


KEPT_FILES = {
    "LICENSE.txt": "the licence of the base",
    "NOTICE": "the notice of the base",
    "additional_chat_templates/short.jinja": "{{ messages }}",
}
STRAY_FILES = {
    "README.md": "# the card of the base",
    "random.py": "print('not ours')",
    "training_args.bin": "pickled",
    "optimizer.pt": "pickled",
    "adapter.safetensors": "not part of the checkpoint",
    "adapter_config.json": "{}",
    "adapter_model.safetensors": "not part of the checkpoint",
    ".gitattributes": "*.bin filter=lfs",
    "checkpoint-10/config.json": "{}",
}


def shipped_files():
    room = resources.files("divprune_hf.remote_code")
    return {entry.name for entry in room.iterdir() if entry.name.endswith(".py")} - {"__init__.py"}


def write_files(folder, files):
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)


def budget_of(variant):
    """The stored budget, which model and processor must agree on."""
    stored = load_json(variant / "config.json")["divprune_config"]
    assert load_json(variant / "processor_config.json")["divprune_config"] == stored
    return stored


def test_weights_tokenizer_templates_and_licence_are_the_bases_byte_for_byte(base, tmp_path):
    write_files(base, KEPT_FILES)
    variant = convert_checkpoint(base, tmp_path / "variant")
    of_base, of_variant = file_hashes(base), file_hashes(variant)
    untouched = set(of_base) - {"config.json", "processor_config.json"}
    assert {"model.safetensors", "tokenizer.json", "chat_template.jinja", "generation_config.json"} <= untouched
    assert set(KEPT_FILES) <= untouched
    assert {name: of_variant[name] for name in untouched} == {name: of_base[name] for name in untouched}


def test_variant_holds_nothing_but_the_checkpoint_our_code_and_our_card(base, tmp_path):
    expected = set(file_hashes(base)) | shipped_files() | {"README.md", "processor_config.json"}
    write_files(base, STRAY_FILES)
    variant = convert_checkpoint(base, tmp_path / "variant")
    assert set(file_hashes(variant)) == expected


def test_stray_json_of_any_kind_does_not_stop_the_conversion(base, tmp_path):
    write_files(base, {"questions.json": "[1, 2, 3]", "trainer_state.json": "{", "eval.json": '{"auto_map": 1}'})
    names = {path.name for path in convert_checkpoint(base, tmp_path / "variant").iterdir()}
    assert not names & {"questions.json", "trainer_state.json", "eval.json"}


def test_readme_is_our_card_and_not_the_bases(base, tmp_path):
    write_files(base, STRAY_FILES)
    card = (convert_checkpoint(base, tmp_path / "lean", {"num_tokens": 7}) / "README.md").read_text()
    assert card.startswith("---\n") and "# lean" in card and "7 visual tokens" in card
    assert "card of the base" not in card


def test_shipped_code_is_the_packages_byte_for_byte(base, tmp_path):
    variant = convert_checkpoint(base, tmp_path / "variant")
    room = resources.files("divprune_hf.remote_code")
    assert {path.name for path in variant.glob("*.py")} == shipped_files()
    assert all((variant / name).read_bytes() == (room / name).read_bytes() for name in shipped_files())


def test_config_differs_from_the_bases_in_model_type_classes_budget_and_tested_releases_alone(base, tmp_path):
    edit_json(base / "config.json", image_seq_length=36)
    of_base = load_json(base / "config.json")
    of_variant = load_json(convert_checkpoint(base, tmp_path / "variant", {"num_tokens": 7}) / "config.json")
    head = "modeling_divprune_llava.DivPruneLlavaForConditionalGeneration"
    assert of_variant == {
        **of_base,
        "model_type": "divprune_llava",
        "architectures": ["DivPruneLlavaForConditionalGeneration"],
        "auto_map": {
            "AutoConfig": "configuration_divprune.DivPruneLlavaConfig",
            "AutoModel": "modeling_divprune_llava.DivPruneLlavaModel",
            "AutoModelForImageTextToText": head,
            "AutoModelForVision2Seq": head,
            "AutoModelForMultimodalLM": head,
        },
        "divprune_config": {"num_tokens": 7, "order": "raster"},
        "divprune_tested_transformers": list(TESTED_TRANSFORMERS),
    }


def test_processor_config_differs_from_the_bases_in_class_and_budget_alone(base, tmp_path):
    of_base = load_json(base / "processor_config.json")
    variant = convert_checkpoint(base, tmp_path / "variant", {"num_tokens": 7})
    assert load_json(variant / "processor_config.json") == {
        **of_base,
        "processor_class": "DivPruneLlavaProcessor",
        "auto_map": {"AutoProcessor": "processing_divprune.DivPruneLlavaProcessor"},
        "divprune_config": {"num_tokens": 7, "order": "raster"},
    }


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        pytest.param(None, {"retention_ratio": 0.098, "order": "raster"}, id="default"),
        pytest.param({}, {"retention_ratio": 0.098, "order": "raster"}, id="empty"),
        pytest.param({"retention_ratio": 0.5}, {"retention_ratio": 0.5, "order": "raster"}, id="ratio"),
        pytest.param({"retention_ratio": 1}, {"retention_ratio": 1.0, "order": "raster"}, id="int_1_as_ratio"),
        pytest.param({"num_tokens": 64}, {"num_tokens": 64, "order": "raster"}, id="num_tokens"),
        pytest.param({"order": "selection"}, {"retention_ratio": 0.098, "order": "selection"}, id="order"),
        pytest.param(DivPruneConfig(num_tokens=64), {"num_tokens": 64, "order": "raster"}, id="config_object"),
    ],
)
def test_budget_is_stored_for_model_and_processor(base, tmp_path, given, stored):
    assert budget_of(convert_checkpoint(base, tmp_path / "variant", given)) == stored


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        pytest.param(None, {"num_tokens": 64, "order": "raster"}, id="none_keeps_all"),
        pytest.param({"order": "selection"}, {"num_tokens": 64, "order": "selection"}, id="order_keeps_the_budget"),
        pytest.param({"num_tokens": 5}, {"num_tokens": 5, "order": "raster"}, id="other_number"),
        pytest.param({"retention_ratio": 0.5}, {"retention_ratio": 0.5, "order": "raster"}, id="ratio_clears_number"),
    ],
)
def test_converting_a_variant_again_changes_its_budget_alone(base, tmp_path, given, stored):
    first = convert_checkpoint(base, tmp_path / "first", {"num_tokens": 64})
    second = convert_checkpoint(first, tmp_path / "second", given)
    edited = {"config.json", "processor_config.json", "README.md"}
    of_first, of_second = file_hashes(first), file_hashes(second)
    assert budget_of(second) == stored
    assert set(of_second) == set(of_first)
    assert {name for name in of_first if of_first[name] != of_second[name]} <= edited


def test_overwrite_replaces_a_variant_completely(base, tmp_path):
    out = convert_checkpoint(base, tmp_path / "variant", {"num_tokens": 3})
    write_files(out, STRAY_FILES)
    fresh = convert_checkpoint(base, tmp_path / "fresh", {"num_tokens": 5})
    convert_checkpoint(base, out, {"num_tokens": 5}, overwrite=True)
    (fresh / "README.md").unlink(), (out / "README.md").unlink()  # the cards name the variants
    assert file_hashes(out) == file_hashes(fresh)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "fresh", "variant"]


def test_out_may_be_an_empty_folder_or_lie_in_folders_that_do_not_exist_yet(base, tmp_path):
    (tmp_path / "empty").mkdir()
    for out in (tmp_path / "empty", tmp_path / "new" / "nested"):
        assert convert_checkpoint(str(base), str(out)) == out
        assert (out / "config.json").is_file()


def test_variant_is_readable_by_others_as_far_as_the_umask_allows(base, tmp_path):
    (tmp_path / "plain").mkdir()
    variant = convert_checkpoint(base, tmp_path / "variant")
    assert variant.stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("link", [False, True], ids=["copied", "linked"])
@pytest.mark.parametrize("shards", ["one_file", "sharded"])
def test_link_shares_the_weights_and_nothing_else_with_the_base(request, tmp_path, link, shards):
    base = request.getfixturevalue("base" if shards == "one_file" else "sharded_base")
    variant = convert_checkpoint(base, tmp_path / "variant", link=link)
    in_both = [path.name for path in base.iterdir() if (variant / path.name).exists()]
    shared = {name for name in in_both if (base / name).samefile(variant / name)}
    assert shared == ({path.name for path in base.glob("*.safetensors")} if link else set())


@pytest.mark.parametrize("with_symlinks", [True, False], ids=["symlinked_blobs", "files_in_snapshot"])
def test_files_of_a_hub_cache_are_copied_even_when_links_are_asked_for(base, tmp_path, with_symlinks):
    snapshot = tmp_path / "cache" / "models--org--name" / "snapshots" / ("0" * 40)
    if with_symlinks:
        hashes, blobs = file_hashes(base), snapshot.parents[1] / "blobs"
        blobs.mkdir(parents=True), snapshot.mkdir(parents=True)
        for name, digest in hashes.items():
            (base / name).rename(blobs / digest)
            (snapshot / name).symlink_to(Path("..", "..", "blobs", digest))
    else:
        shutil.copytree(base, snapshot)  # as on file systems without symbolic links
    before = file_hashes(snapshot)

    variant = convert_checkpoint(snapshot, tmp_path / "variant", link=True)
    assert not any(path.is_symlink() for path in variant.rglob("*"))
    for path in variant.iterdir():
        path.write_bytes(os.urandom(8))
    assert file_hashes(snapshot) == before
