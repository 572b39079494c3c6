"""The console command: what it prints, what it refuses, and with which exit code."""

import json
import shutil

import pytest
from PIL import Image

from divprune_hf import DivPruneConfig
from divprune_hf.cli import main
from divprune_hf.inference.loading import load_pruned


@pytest.fixture(scope="module")
def picture(tmp_path_factory, photos):
    path = tmp_path_factory.mktemp("pictures") / "photo.png"
    photos[0].save(path)
    return path


def stored_budget(folder):
    return json.loads((folder / "config.json").read_text())["divprune_config"]


@pytest.mark.parametrize(
    ("flags", "budget"),
    [
        ([], {"retention_ratio": 0.098, "order": "raster"}),
        (["--retention-ratio", "0.5"], {"retention_ratio": 0.5, "order": "raster"}),
        (["--num-tokens", "7", "--order", "selection"], {"num_tokens": 7, "order": "selection"}),
        (
            ["--selector", "random", "--seed", "3"],
            {"retention_ratio": 0.098, "order": "raster", "selector": "random", "seed": 3},
        ),
    ],
    ids=str,
)
def test_convert_writes_the_budget(family, tmp_path, capsys, flags, budget):
    assert main(["convert", str(family.base), str(tmp_path / "out"), *flags]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "out")
    assert stored_budget(tmp_path / "out") == budget


def test_convert_replaces_a_variant_only_when_told(family, tmp_path, capsys):
    arguments = ["convert", str(family.base), str(tmp_path / "out")]
    assert main([*arguments, "--num-tokens", "7"]) == 0
    assert main([*arguments, "--num-tokens", "8"]) == 2
    assert stored_budget(tmp_path / "out")["num_tokens"] == 7
    assert main([*arguments, "--num-tokens", "8", "--overwrite", "--link"]) == 0
    assert stored_budget(tmp_path / "out")["num_tokens"] == 8


@pytest.mark.parametrize(
    ("flags", "kept"), [([], 9), (["--num-tokens", "5"], 5), (["--retention-ratio", "1"], 36)], ids=str
)
def test_ask_answers_from_the_budget_it_is_given(family, picture, capsys, flags, kept):
    assert main(["ask", str(family.variant), str(picture), "w1 w2", *flags]) == 0
    output = capsys.readouterr()
    assert output.out.strip() and f"{kept} of 36 visual tokens kept" in output.err


@pytest.mark.parametrize("of", ["base", "variant"])
def test_ask_takes_every_setting(family, picture, capsys, monkeypatch, of):
    asked = {}

    def load(*arguments, **settings):
        asked["model"], processor = load_pruned(*arguments, **settings)
        return asked["model"], processor

    monkeypatch.setattr("divprune_hf.inference.loading.load_pruned", load)
    flags = ["--num-tokens", "5", "--selector", "random", "--seed", "3", "--order", "selection"]
    assert main(["ask", str(vars(family)[of]), str(picture), "w1 w2", *flags]) == 0
    expected = DivPruneConfig(num_tokens=5, selector="random", seed=3, order="selection")
    assert asked["model"].config.divprune_config.to_block() == expected.to_block()
    assert "5 of 36 visual tokens kept" in capsys.readouterr().err


def test_ask_prunes_a_stock_base_in_memory(family, picture, capsys):
    """The answers of the base at a budget are those of a variant converted with it."""
    answers = []
    for model in (family.base, family.variant):
        for num_tokens in ("9", "3"):
            assert main(["ask", str(model), str(picture), "w1 w2", "--num-tokens", num_tokens]) == 0
            answers.append(capsys.readouterr().out)
    assert answers[:2] == answers[2:] and answers[0] != answers[1]


def test_a_stock_base_without_a_budget_gets_the_default(family, picture, capsys):
    assert main(["ask", str(family.base), str(picture), "w1 w2", "--device", "cpu"]) == 0
    assert "4 of 36 visual tokens kept" in capsys.readouterr().err
    model, processor = load_pruned(family.base)
    assert processor.divprune_config == DivPruneConfig().to_block() == model.config.divprune_config.to_block()


def test_show_draws_the_kept_patches(family, picture, tmp_path):
    shown = tmp_path / "kept.png"
    assert main(["ask", str(family.variant), str(picture), "w1", "--num-tokens", "3", "--show", str(shown)]) == 0
    pixels = list(Image.open(shown).convert("RGB").getdata())
    assert Image.open(shown).size == (24, 24)
    assert 0 < pixels.count((255, 196, 0)) <= 3 * 12  # the outline of a patch of 4x4 has 12 pixels


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["convert", "{base}", "{out}", "--retention-ratio", "0"], "retention_ratio=0.0"),
        (["convert", "{base}", "{out}", "--retention-ratio", "nan"], "retention_ratio=nan"),
        (["convert", "{base}", "{out}", "--retention-ratio", "much"], "invalid float value"),
        (["convert", "{base}", "{out}", "--num-tokens", "5", "--retention-ratio", "0.5"], "not allowed with"),
        (["convert", "{base}", "{base}"], "not empty"),
        (["convert", "{base}/no/such", "{out}"], "neither a folder nor"),
        (["convert", "{base}"], "required: OUT"),
        (["ask", "{variant}", "{base}/config.json", "w1"], "not a picture"),
        (["ask", "{variant}", "{base}/none.png", "w1"], "not a picture"),
        (["ask", "{variant}", "{picture}", "w1", "--num-tokens", "0"], "num_tokens=0"),
        (["ask", "{variant}", "{picture}", "w1", "--show", "{base}/no/such/folder.png"], "cannot be written"),
        (["ask", "{variant}", "{picture}", "w1", "--show", "{base}/kept.xyz"], "ending of a picture format"),
        (["ask", "{variant}", "{picture}", "w1", "--device", "cuda:7"], "no CUDA device"),
        (["ask", "{variant}", "{picture}", "w1", "--device", "toaster"], "toaster"),
        (["ask", "{truncated}", "{picture}", "w1"], "truncated or damaged"),
        (["convert", "{truncated}", "{out}"], "truncated or damaged"),
        (["ask", "{out}/nothing", "{picture}", "w1"], ""),
        (["fly"], "invalid choice"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_errors_are_one_line_with_exit_code_2(family, picture, tmp_path, capsys, arguments, message):
    truncated = shutil.copytree(family.base, tmp_path / "truncated")
    weights = (truncated / "model.safetensors").read_bytes()
    (truncated / "model.safetensors").write_bytes(weights[:-100])
    names = {
        "truncated": truncated,
        "base": family.base,
        "variant": family.variant,
        "picture": picture,
        "out": tmp_path / "out",
    }
    try:
        code = main([argument.format(**names) for argument in arguments])
    except SystemExit as stop:
        code = stop.code
    output = capsys.readouterr()
    errors = [line for line in output.err.splitlines() if "Loading" not in line and "Converting" not in line]
    assert code == 2 and output.out == ""
    assert len(errors) == 1 and errors[0].startswith("divprune-hf: error: ") and message in errors[0]
    assert not (tmp_path / "out").exists()
