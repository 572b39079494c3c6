"""`divprune-hf diversity` on pocket-llava: distances against a plain loop, the figures, and what it refuses."""

import json
import sys

import pytest
import torch
from PIL import Image

from divprune_hf.common.pocket_llava import pocket_llava
from divprune_hf.inference.loading import load_pruned
from divprune_hf.remote_code.selectors import SELECTORS
from divprune_hf.remote_code.token_selection import feature_list
from tests.helpers.commands import run_command
from tests.naive_max_min import naive_max_min


EXAMPLES = pocket_llava() / "examples"


def run(*arguments):
    pytest.importorskip("matplotlib", reason="the command draws")
    pytest.importorskip("sklearn", reason="the command draws with t-SNE")
    return run_command("diversity", *arguments, "--device", "cpu")


def smallest_distance(features, picks):
    rows = features[picks].double()
    pairs = [(a, b) for number, a in enumerate(rows) for b in rows[:number]]
    return min(1 - (a @ b / (a.norm() * b.norm())).item() for a, b in pairs)


def test_kept_sets_are_shown_and_measured(tmp_path):
    result = run(pocket_llava(), EXAMPLES, "--budget", "0.098", "--draw", "2", "--out", tmp_path / "out")
    assert result.returncode == 0, result.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "diversity.json",
        "max_min_distance.png",
        "tsne_scene_00.png",
        "tsne_scene_01.png",
    ]
    for path in (tmp_path / "out").glob("*.png"):
        with Image.open(path) as figure:
            assert min(figure.size) > 200 and len(figure.convert("RGB").getcolors(2**20)) > 10
    report = json.loads((tmp_path / "out" / "diversity.json").read_text())
    rows = {(row["picture"], row["selector"]): row for row in report["results"]}
    assert len(rows) == 12 * len(SELECTORS) and all(
        (row["kept"], row["visual_tokens"]) == (25, 256) for row in rows.values()
    )
    model, processor = load_pruned(pocket_llava(), retention_ratio=1.0, device="cpu")
    for name in ("scene_00.png",):
        picture = Image.open(EXAMPLES / name).convert("RGB")
        inputs = processor(images=[picture], text=["<image>"], return_tensors="pt")
        with torch.no_grad():
            (features,) = feature_list(model.get_image_features(inputs["pixel_values"]))
        uniform = [int((i + 0.5) * 256 / 25) for i in range(25)]
        expected = {"max_min": naive_max_min(features.tolist(), 25), "uniform": uniform}
        for selector, picks in expected.items():
            measured = rows[name, selector]["max_min_distance"]
            assert measured == pytest.approx(smallest_distance(features, picks), rel=1e-3, abs=1e-6)
        assert rows[name, "max_min"]["max_min_distance"] > rows[name, "random"]["max_min_distance"]
    assert "max_min: median" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.png"], "missing.png does not exist"),
        (["empty"], "has no pictures"),
        (["notes.png"], "is not a picture"),
        ([EXAMPLES, "--selectors", "diverse"], "invalid choice: 'diverse'"),
        ([EXAMPLES, "--budget", "1"], "at least 2"),
        ([EXAMPLES, "--budget", "many"], "budget 'many'"),
        ([EXAMPLES, "--seed", "-1"], "seed=-1"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else None,
)
def test_bad_input_is_one_line(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.png").write_text("no picture")
    result = run(pocket_llava(), *arguments, "--out", "out")
    assert result.returncode == 2 and message in result.stderr.splitlines()[-1]


@pytest.mark.parametrize(("module", "package"), [("matplotlib", "matplotlib"), ("sklearn", "scikit-learn")])
def test_a_missing_package_is_named_before_a_model_is_loaded(tmp_path, monkeypatch, module, package):
    pytest.importorskip("matplotlib")
    monkeypatch.setitem(sys.modules, module, None)
    result = run_command("diversity", tmp_path / "no model", EXAMPLES, "--out", tmp_path / "out")
    assert result.returncode == 2 and not (tmp_path / "out").exists()
    assert f"divprune-hf diversity needs {package}: pip install 'divprune-hf[plot]'" in result.stderr
