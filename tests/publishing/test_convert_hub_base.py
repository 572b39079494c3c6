"""A base named by its Hub id, answered from a cache that holds two of its commits: no server is asked."""

import json
import os
import shutil
import sys

import pytest

from tests.helpers import warm_python
from tests.helpers.folders import edit_json, load_json


OLD, NEW = "a" * 40, "b" * 40
CONVERT = """
import sys, divprune_hf
arguments = dict(zip(["base", "out", "base_revision"], sys.argv[1:]))
try:
    divprune_hf.convert_checkpoint(**arguments, divprune_config={"num_tokens": 5}, link=True)
except ValueError as error:
    print("refused:", error)
"""


@pytest.fixture
def hub_cache(make_checkpoint, tmp_path):
    """A cache in the Hub's layout: blobs, and two snapshots of links to them; `main` is the newer."""
    repo = tmp_path / "hub" / "models--org--tiny-llava"
    (repo / "blobs").mkdir(parents=True)
    for commit, feature_layer in ((OLD, -1), (NEW, -2)):
        snapshot = shutil.copytree(make_checkpoint().base, repo / "snapshots" / commit)
        edit_json(snapshot / "config.json", vision_feature_layer=feature_layer)
        for path in list(snapshot.iterdir()):
            blob = repo / "blobs" / f"{commit[0]}-{path.name}"
            path.rename(blob)
            path.symlink_to(os.path.relpath(blob, snapshot))
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(NEW)
    return tmp_path / "hub"


def convert(hub_cache, *arguments):
    environment = {**os.environ, "HF_HUB_CACHE": str(hub_cache), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", CONVERT, *map(str, arguments)]
    result = warm_python.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout


def test_a_hub_base_is_converted_at_its_revision_and_copied_out_of_the_cache(hub_cache, tmp_path):
    convert(hub_cache, "org/tiny-llava", tmp_path / "newest")
    convert(hub_cache, "org/tiny-llava", tmp_path / "older", OLD)
    assert load_json(tmp_path / "newest" / "config.json")["vision_feature_layer"] == -2
    assert load_json(tmp_path / "older" / "config.json")["vision_feature_layer"] == -1
    card = (tmp_path / "older" / "README.md").read_text()
    assert "base_model: org/tiny-llava" in card and OLD in card
    for path in (tmp_path / "newest").iterdir():
        assert not path.is_symlink() and path.stat().st_nlink == 1


def test_an_out_inside_the_hub_base_is_refused(hub_cache):
    snapshot = hub_cache / "models--org--tiny-llava" / "snapshots" / NEW
    before = sorted(path.name for path in snapshot.iterdir())
    assert "lies in the base" in convert(hub_cache, "org/tiny-llava", snapshot / "variant")
    assert sorted(path.name for path in snapshot.iterdir()) == before


def test_an_unsupported_hub_base_is_refused(hub_cache, tmp_path):
    config = hub_cache / "models--org--tiny-llava" / "blobs" / "b-config.json"
    config.write_text(json.dumps({"model_type": "qwen2_vl"}))
    assert "refused: org/tiny-llava is of model_type 'qwen2_vl'" in convert(
        hub_cache, "org/tiny-llava", tmp_path / "out"
    )
    assert not (tmp_path / "out").exists()
