"""Where a variant is not written: over something else, over its base, or into it."""

import json
import shutil

import pytest

from divprune_hf import convert_checkpoint
from tests.helpers.folders import assert_refused, tree


@pytest.mark.parametrize("overwrite", [False, True], ids=["", "overwrite"])
def test_folder_that_is_not_a_variant_is_never_replaced(base, tmp_path, overwrite):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    assert_refused(tmp_path, base, tmp_path / "out", "is not empty", overwrite=overwrite)


@pytest.mark.parametrize("config", [{"model_type": "llava"}, {}, [], {"model_type": ["llava"]}], ids=json.dumps)
def test_folder_with_the_config_of_something_else_is_never_replaced(base, tmp_path, config):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "config.json").write_text(json.dumps(config))
    assert_refused(tmp_path, base, tmp_path / "out", str(tmp_path / "out"), overwrite=True)


def test_variant_is_not_replaced_without_overwrite(base, tmp_path):
    out = convert_checkpoint(base, tmp_path / "out")
    assert_refused(tmp_path, base, out, "pass --overwrite", divprune_config={"num_tokens": 5})


@pytest.mark.parametrize("overwrite", [False, True], ids=["", "overwrite"])
def test_out_that_is_a_file_is_refused(base, tmp_path, overwrite):
    (tmp_path / "out").write_text("a file")
    assert_refused(tmp_path, base, tmp_path / "out", "is a file", overwrite=overwrite)


@pytest.mark.parametrize("through", ["path", "symlink"])
@pytest.mark.parametrize("overwrite", [False, True], ids=["", "overwrite"])
def test_out_that_is_the_base_is_refused(base, tmp_path, through, overwrite):
    variant = convert_checkpoint(base, tmp_path / "variant")
    (tmp_path / "link").symlink_to(variant)
    out = tmp_path / "link" if through == "symlink" else variant
    reason = "is, contains or lies in the base" if overwrite else "is not empty"
    assert_refused(tmp_path, variant, out, reason, overwrite=overwrite)
    assert_refused(tmp_path, out, variant, reason, overwrite=overwrite)


@pytest.mark.parametrize("through", ["path", "symlink_as_base", "symlink_as_out"])
@pytest.mark.parametrize("overwrite", [False, True], ids=["", "overwrite"])
def test_out_inside_the_base_is_refused(base, tmp_path, through, overwrite):
    (tmp_path / "link").symlink_to(base)
    source = tmp_path / "link" if through == "symlink_as_base" else base
    out = (tmp_path / "link" if through == "symlink_as_out" else base) / "deep" / "out"
    assert_refused(tmp_path, source, out, "lies in the base", overwrite=overwrite)


@pytest.mark.parametrize("through", ["path", "symlink"])
def test_variant_that_contains_the_base_is_not_overwritten(base, tmp_path, through):
    out = convert_checkpoint(base, tmp_path / "out")
    inner = shutil.copytree(base, out / "inner")
    (tmp_path / "link").symlink_to(inner)
    source = tmp_path / "link" if through == "symlink" else inner
    assert_refused(tmp_path, source, out, "contains or lies in the base", overwrite=True)


def test_revision_of_a_local_folder_is_refused(base, tmp_path):
    assert_refused(tmp_path, base, tmp_path / "out", "only Hub repos have revisions", base_revision="main")


@pytest.mark.parametrize("name", ["no such/folder/at all", "/no/such/folder"])
def test_base_that_is_neither_folder_nor_repo_id_is_refused(tmp_path, name):
    assert_refused(tmp_path, name, tmp_path / "out", "neither a folder nor the id of a Hub repo")


def test_base_that_is_a_file_is_refused(base, tmp_path):
    assert_refused(tmp_path, base / "model.safetensors", tmp_path / "out", "neither a folder nor the id of a Hub repo")


def test_weights_that_link_into_the_variant_to_be_replaced_are_refused(base, tmp_path):
    """The base would lose them with the old variant."""
    out = convert_checkpoint(base, tmp_path / "out")
    (base / "model.safetensors").rename(out / "kept.safetensors")
    (base / "model.safetensors").symlink_to(out / "kept.safetensors")
    before = tree(tmp_path)
    with pytest.raises(ValueError, match="is a link into"):
        convert_checkpoint(base, out, overwrite=True)
    assert tree(tmp_path) == before


def test_the_current_folder_is_not_replaced(base, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for out in (".", ".."):
        with pytest.raises(ValueError, match="current folder"):
            convert_checkpoint(base, out)
    with pytest.raises(ValueError, match="names of two folders"):
        convert_checkpoint(base, "")
