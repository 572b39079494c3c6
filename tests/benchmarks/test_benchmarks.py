"""The scripts of maintainers run as their docstrings say."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoConfig

from divprune_hf.common.pocket_llava import pocket_llava


SCRIPTS = Path(__file__).parents[2] / "scripts"


def test_benchmark_selection_measures_every_path(tmp_path):
    command = [sys.executable, str(SCRIPTS / "benchmark_selection.py"), "--repeats", "2", "--device", "cpu"]
    command += ["--shapes", "40/4", "60/6", "--long", "80/8", "--json", str(tmp_path / "rows.json")]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    measured = [(row["tokens"], row["kept"], row["path"]) for row in rows]
    assert measured[:6] == [(m, m // 10, path) for m in (40, 60) for path in ("gram", "naive", "torch")]
    assert measured[6:] == [(80, 8, "gram"), (80, 8, "torch")]
    assert all(row["milliseconds"] > 0 and row["over_gram"] > 0 and row["batch"] == 1 for row in rows)
    assert all("bytes_beyond_input" in row for row in rows[6:])
    assert result.stdout.count("\n|") == 9


def run(script, *arguments):
    result = subprocess.run([sys.executable, str(SCRIPTS / script), *arguments], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


@pytest.mark.parametrize("decoding", [[], ["--compiled"]], ids=["eager", "compiled"])
def test_benchmark_generation_measures_stock_ours_and_the_oracle(tmp_path, decoding):
    arguments = ["--shape", "pocket", "--repeats", "1", "--batches", "2", "--budgets", "0.2", "--new-tokens", "4"]
    arguments += ["--device", "cpu", "--json", str(tmp_path / "rows.json"), "--png", str(tmp_path / "bars.png")]
    run("benchmark_generation.py", *arguments, *decoding)
    assert (tmp_path / "bars.png").stat().st_size > 1000
    written = json.loads((tmp_path / "rows.json").read_text())
    rows = written["rows"]
    assert [(row["path"], row["batch"], row["budget"]) for row in rows] == [
        (path, 2, 0.2) for path in ("stock", "divprune", "oracle")
    ]
    assert all(row["prefill_ms"] > 0 and row["tokens_per_second"] > 0 and row["peak_bytes"] >= 0 for row in rows)
    config = AutoConfig.from_pretrained(pocket_llava()).text_config
    width = config.num_key_value_heads * (config.hidden_size // config.num_attention_heads)
    bytes_per_token = config.num_hidden_layers * 2 * width * 4
    # A prompt of 35 text tokens with 256 visual tokens, or 51 of them; a static cache also has room for
    # an answer of 4 tokens, the last of which is never fed back.
    room = 3 if decoding else 0
    assert [row["kv_bytes"] for row in rows] == [2 * bytes_per_token * (35 + visual + room) for visual in (256, 51, 51)]
    (ratios,) = written["ratios"].values()
    assert 0 < ratios["llm_flops_over_stock"] < ratios["prompt_tokens_over_stock"] < 1


def test_benchmark_loading_loads_base_and_variant(tmp_path):
    run("benchmark_loading.py", "--shape", "pocket", "--repeats", "1", "--json", str(tmp_path / "rows.json"))
    written = json.loads((tmp_path / "rows.json").read_text())
    assert [row["path"] for row in written["rows"]] == ["stock", "divprune"]
    assert written["rows"][0]["parameters"] == written["rows"][1]["parameters"] > 2e6


def test_profile_prefill_tells_where_the_time_goes(tmp_path):
    arguments = ["--shape", "pocket", "--repeats", "3", "--batches", "2", "--device", "cpu"]
    run("profile_prefill.py", *arguments, "--json", str(tmp_path / "rows.json"))
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    milliseconds = {row["part"]: row["milliseconds"] for row in rows}
    assert min(milliseconds.values()) > 0
    assert {"vision tower", "projector", "language model", "selection: picks", "prefill"} <= milliseconds.keys()
