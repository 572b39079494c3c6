"""`divprune-hf bench`: what each benchmark measures, prints and writes, and what it refuses."""

import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig

from divprune_hf.benchmarks import loading
from divprune_hf.benchmarks.generation import Comparison, FirstToken, GenerationRun
from divprune_hf.benchmarks.least import flops_of_modules
from divprune_hf.benchmarks.models import build_inputs, build_models
from divprune_hf.benchmarks.preprocessing import image_processors
from divprune_hf.benchmarks.shapes import LLAMA_TINY, NUM_TEXT_TOKENS, SHAPES, VIT_SMALL, Shape
from divprune_hf.common.pocket_llava import pocket_llava
from divprune_hf.remote_code import max_min
from tests.helpers import warm_python
from tests.helpers.commands import run_command


REMOTE_CODE = Path(max_min.__file__).parent


def bench(*arguments):
    """Run a benchmark; return what it prints. The threads of torch are as before."""
    threads = torch.get_num_threads()
    result = run_command("bench", *arguments)
    assert result.returncode == 0, result.stderr[-3000:]
    assert torch.get_num_threads() == threads
    return result.stdout


def test_selection_measures_every_path(tmp_path):
    arguments = ["--repeats", "2", "--device", "cpu", "--threads", "2", "--shapes", "40/4", "60/6", "--long"]
    printed = bench("selection", *arguments, "--json", tmp_path / "rows.json")
    run = json.loads((tmp_path / "rows.json").read_text())
    rows = run["rows"]
    measured = [(row["tokens"], row["kept"], row["path"]) for row in rows]
    assert measured == [(m, m // 10, path) for m in (40, 60) for path in ("gram", "naive", "torch", "centered")]
    assert all(row["milliseconds"] > 0 and row["over_gram"] > 0 and row["batch"] == 1 for row in rows)
    assert all((row["device"], row["dtype"]) == ("cpu", "float32") for row in rows)
    assert printed.count("\n|") == 9
    assert list(run) == ["rows", "versions", "hardware", "threads", "date"] and run["threads"] == 2


def test_an_installed_wheel_measures_in_processes_of_their_own(installed_wheel, tmp_path):
    command = [sys.executable, "-m", "divprune_hf.cli", "bench", "selection", "--device", "cpu", "--repeats", "1"]
    command += ["--shapes", "20/2", "--long", "80/8", "--json", "rows.json"]
    environment = {**os.environ, "PYTHONPATH": str(installed_wheel)}
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"][4:]
    assert [(row["tokens"], row["kept"], row["path"]) for row in rows] == [
        (80, 8, path) for path in ("gram", "torch", "centered")
    ]
    assert all(row["milliseconds"] > 0 and row["bytes_beyond_input"] >= 0 for row in rows)


# One layer, since compiling takes seconds for each.
ONE_LAYER = Shape(
    "llava",
    {**VIT_SMALL, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    | {"image_size": 64, "patch_size": 4},
    {**LLAMA_TINY, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    | {"num_key_value_heads": 2},
    num_available=256,
)


@pytest.mark.parametrize("decoding", [[], ["--compiled"]], ids=["eager", "compiled"])
def test_generation_measures_stock_ours_and_the_oracle(tmp_path, monkeypatch, decoding):
    pytest.importorskip("matplotlib", reason="--png draws")
    if decoding:
        monkeypatch.setitem(SHAPES, "pocket", ONE_LAYER)
    arguments = ["--shape", "pocket", "--repeats", "1", "--batches", "2", "--budgets", "0.2", "--new-tokens", "4"]
    arguments += ["--device", "cpu", "--json", tmp_path / "rows.json", "--png", tmp_path / "bars.png"]
    printed = bench("generation", *arguments, *decoding)
    assert (tmp_path / "bars.png").stat().st_size > 1000
    written = json.loads((tmp_path / "rows.json").read_text())
    assert list(written) == ["rows", "ratios", "versions", "hardware", "threads", "date"]
    rows = written["rows"]
    assert [(row["path"], row["batch"], row["budget"]) for row in rows] == [
        (path, 2, 0.2) for path in ("stock", "divprune", "oracle")
    ]
    assert all(row["prefill_ms"] > 0 and row["tokens_per_second"] > 0 and row["peak_bytes"] >= 0 for row in rows)
    assert printed.count("\n|") == 4 and '"prefill_over_oracle": ' in printed
    config = ONE_LAYER.text if decoding else AutoConfig.from_pretrained(pocket_llava()).text_config.to_dict()
    width = config["num_key_value_heads"] * (config["hidden_size"] // config["num_attention_heads"])
    bytes_per_token = config["num_hidden_layers"] * 2 * width * 4
    # A prompt of 35 text tokens with 256 visual tokens, or 51 of them; a static cache also has room for
    # an answer of 4 tokens, the last of which is never fed back.
    room = 3 if decoding else 0
    assert [row["kv_bytes"] for row in rows] == [2 * bytes_per_token * (35 + visual + room) for visual in (256, 51, 51)]
    (ratios,) = written["ratios"].values()
    assert 0 < ratios["llm_flops_over_stock"] < ratios["prompt_tokens_over_stock"] < 1


def test_only_the_oracle_takes_the_picks_that_it_is_handed():
    device = torch.device("cpu")
    run = GenerationRun("pocket", batches=[2], budgets=[0.2], repeats=1, new_tokens=2, device=device)
    comparison = Comparison(run, build_models(SHAPES["pocket"], device, torch.float32), 2, 0.2)
    comparison.picks = [picks[:-1] for picks in comparison.picks]  # one fewer than there are placeholders
    with pytest.raises((ValueError, RuntimeError)):
        comparison.generate("oracle", 1, FirstToken())
    comparison.generate("divprune", 1, FirstToken())


def test_loading_loads_base_and_variant(tmp_path, monkeypatch):
    def run_python(arguments, task, folder):  # in a process of its own, whose start costs less
        result = warm_python.run([sys.executable, *arguments], cwd=folder, capture_output=True, text=True)
        assert result.returncode == 0, f"{task}: {result.stderr[-2000:]}"
        return result.stdout

    monkeypatch.setattr(loading, "run_python", run_python)
    printed = bench("loading", "--shape", "pocket", "--repeats", "1", "--json", tmp_path / "rows.json")
    written = json.loads((tmp_path / "rows.json").read_text())
    assert [row["path"] for row in written["rows"]] == ["stock", "divprune"]
    assert written["rows"][0]["parameters"] == written["rows"][1]["parameters"] > 2e6
    assert all(row["seconds"] > 0 and row["peak_bytes"] > 1e7 for row in written["rows"])
    assert "variant over base: {" in printed and written["ratios"].keys() == {"seconds", "peak_bytes"}


def test_prefill_tells_where_the_time_goes(tmp_path):
    arguments = ["--shape", "pocket", "--repeats", "3", "--batches", "2", "--device", "cpu"]
    printed = bench("prefill", *arguments, "--json", tmp_path / "rows.json")
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    milliseconds = {row["part"]: row["milliseconds"] for row in rows}
    assert min(milliseconds.values()) > 0
    assert {"vision tower", "projector", "language model", "selection: picks", "prefill"} <= milliseconds.keys()
    assert printed.count("\n|") == 1 + len(rows)
    least = {row["part"]: row["least_milliseconds"] for row in rows if "least_milliseconds" in row}
    assert least.keys() == {"vision tower", "projector", "language model", "selection: products", "selection: picks"}
    assert all(0 < least[part] < milliseconds[part] for part in ("vision tower", "language model"))


def test_the_least_of_a_part_is_its_arithmetic():
    """Of the whole vision tower, projector and language model, counted by hand: products of weights and attention."""
    device = torch.device("cpu")
    _, model = build_models(SHAPES["pocket"], device, torch.float32)
    inputs = build_inputs(SHAPES["pocket"], model.config, 2, 0.2, device, torch.float32)
    modules = {name: getattr(model.model, name) for name in ("vision_tower", "multi_modal_projector", "language_model")}
    with torch.no_grad():
        flops = flops_of_modules(modules, lambda: model(**inputs, logits_to_keep=1))
    vision, text = model.config.vision_config, model.config.text_config
    patches, prompt = 256 + 1, 51 + NUM_TEXT_TOKENS

    def layers(number, length, width, weights):
        return number * (2 * length * weights + 4 * length**2 * width)

    width, inner = vision.hidden_size, vision.intermediate_size
    layers_read = vision.num_hidden_layers - 1  # the one above is not run
    tower = layers(layers_read, patches, width, 4 * width**2 + 2 * width * inner)
    tower += 2 * 256 * width * 3 * vision.patch_size**2
    d, kv = text.hidden_size, text.num_key_value_heads * text.head_dim
    language = layers(text.num_hidden_layers, prompt, d, 2 * d**2 + 2 * d * kv + 3 * d * text.intermediate_size)
    projector = 2 * 256 * (width * d + d * d)
    # transformers 4.57 makes the angles of positions by a small product.
    assert flops.pop("language_model") == pytest.approx(2 * language, rel=1e-4)
    assert flops == {"vision_tower": 2 * tower, "multi_modal_projector": 2 * projector}


def test_a_compiled_prefill_stands_beside_one_that_is_not(tmp_path, monkeypatch):
    monkeypatch.setitem(SHAPES, "pocket", ONE_LAYER)
    compiled = []  # what is to be compiled is seen; torch's own work takes seconds, and is not ours
    monkeypatch.setattr(torch, "compile", lambda model: compiled.append(type(model).__name__) or model)
    arguments = ["--shape", "pocket", "--repeats", "1", "--batches", "1", "--device", "cpu", "--compiled"]
    printed = bench("prefill", *arguments, "--json", tmp_path / "rows.json")
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert [row["path"] for row in rows] == ["stock", "divprune"]
    assert all(row["milliseconds"] > 0 and row["compiled_milliseconds"] > 0 for row in rows)
    assert all(row["num_graph_breaks"] > 0 and row["graph_breaks"] for row in rows)
    ours = {place.split(",")[0] for place in rows[1]["graph_breaks"]} & {path.name for path in REMOTE_CODE.iterdir()}
    # The counts are read: they decide how long the prompt is. 4.57 also names where the vision tower is told of them.
    assert {"prompt_counts.py"} <= ours <= {"prompt_counts.py", "pruning_divprune.py"}
    assert "stock breaks in\n" in printed and "to_counts: " in printed
    assert compiled == ["LlavaForConditionalGeneration", "DivPruneLlavaForConditionalGeneration"]


def test_preprocessing_measures_each_backend(tmp_path):
    arguments = ["--shape", "pocket", "--repeats", "2", "--picture", "60x50", "--device", "cpu"]
    printed = bench("preprocessing", *arguments, "--json", tmp_path / "rows.json")
    run = json.loads((tmp_path / "rows.json").read_text())
    with_torchvision = ["torchvision"] if find_spec("torchvision") else []
    assert [row["backend"] for row in run["rows"]] == [*with_torchvision, "Pillow"]
    for row in run["rows"]:
        ours, generate = row["milliseconds"], row["generate_milliseconds"]
        assert min(ours, generate, row["stock_milliseconds"]) > 0 and row["share"] == ours / (ours + generate)
    parents = [" ".join(parent.__name__ for parent in type(one).__mro__) for one in image_processors(64).values()]
    assert ["Torchvision" in names or "Fast" in names for names in parents] == [*map(bool, with_torchvision), False]
    assert run["picture"] == [60, 50] and printed.count("\n|") == 1 + len(run["rows"])


FLAGS = {
    "selection": ["--shapes", "--long", "--batches", "--device", "--threads"],
    "generation": ["--shape", "--png", "--batches", "--budgets", "--new-tokens", "--device", "--compiled", "--threads"],
    "loading": ["--shape"],
    "prefill": ["--shape", "--batches", "--budget", "--device", "--threads", "--compiled"],
    "preprocessing": ["--shape", "--budget", "--device", "--threads", "--picture"],
}


@pytest.mark.parametrize("name", FLAGS)
def test_every_benchmark_tells_its_flags(name):
    result = run_command("bench", name, "--help")
    assert result.returncode == 0
    assert all(f" {flag}" in result.stdout for flag in ["--json", "--repeats", *FLAGS[name]])
    assert re.search(rf"^ +{name}\b", run_command("bench", "--help").stdout, re.MULTILINE)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["speed"],
            "invalid choice: 'speed', expected selection, generation, loading, prefill, preprocessing, or a MODEL",
        ),
        ([], "BENCHMARK"),
        (["prefill", "--shape", "llava-2"], "invalid choice: 'llava-2'"),
        (["generation"], "--shape"),
        (["preprocessing", "--shape", "llava-1.6-7b"], "of llava_next, expected one of llava"),
        (["preprocessing", "--shape", "pocket", "--picture", "640"], "expected WIDTHxHEIGHT in pixels"),
        (["loading", "--repeats", "0"], "Got '0', expected a whole number of at least 1"),
        (["generation", "--shape", "pocket", "--new-tokens", "1"], "at least 2"),
        (["selection", "--shapes", "576", "--device", "cpu"], "Got shape '576', expected M/K"),
        (["selection", "--long", "8/9", "--device", "cpu"], "Got shape '8/9', expected M/K"),
        (["loading", "--json", "nowhere/rows.json"], "its folder does not exist"),
        (["loading", "--json", "."], "it is a folder"),
        (["generation", "--shape", "pocket", "--png", "bars.rows"], "expected the ending of a picture format"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_impossible_options_are_refused_in_one_line(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    result = run_command("bench", *arguments)
    assert result.returncode == 2 and message in result.stderr and result.stderr.count("\n") == 1
    assert result.stdout == "" and not list(tmp_path.iterdir())


def test_a_missing_matplotlib_is_named_before_anything_is_measured(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = run_command("bench", "generation", "--shape", "pocket", "--png", tmp_path / "bars.png")
    assert result.returncode == 2 and result.stdout == ""
    assert "bench generation --png needs matplotlib: pip install 'divprune-hf[plot]'" in result.stderr
