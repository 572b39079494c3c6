"""`divprune-hf bench MODEL --engine vllm` on a real server: every cell is asked, and pruned prompts are shorter."""

import json
import subprocess
import sys

import pytest

from divprune_hf import convert_checkpoint
from divprune_hf.common.pocket_llava import pocket_llava
from tests.helpers.vllm_processes import environment


pytest.importorskip("vllm", reason="vLLM is tested in a stage of its own")


def run_bench(folder, *arguments):
    command = [sys.executable, "-m", "divprune_hf.cli", "bench", *map(str, arguments)]
    small = ["--dtype", "float32", "--enforce-eager", "--gpu-memory-utilization", "0.2"]
    return subprocess.run(
        [*command, "--", *small], cwd=folder, env=environment(folder), capture_output=True, text=True, timeout=500
    )


def test_every_cell_is_asked_and_pruned_prompts_are_shorter(tmp_path):
    variant = convert_checkpoint(pocket_llava(), tmp_path / "variant")
    arguments = [
        "--concurrency",
        "1",
        "2",
        "--requests",
        "3",
        "--repeats",
        "2",
        "--budgets",
        "0.1",
        "--new-tokens",
        "2",
    ]
    result = run_bench(tmp_path, variant, "--engine", "vllm", *arguments, "--json", "rows.json")
    assert result.returncode == 0, result.stderr[-3000:]
    run = json.loads((tmp_path / "rows.json").read_text())
    assert run["rounds"] == 2 and result.stdout.count("\n|") == 1 + len(run["rows"])
    assert [(row["concurrency"], row["budget"]) for row in run["rows"]] == [(c, r) for c in (1, 2) for r in (1.0, 0.1)]
    for row in run["rows"]:
        assert row["requests"] == 6 and len(row["requests_per_second"]["values"]) == 2
        first = row["first_token_ms"]
        assert 0 < first["p50"] <= first["p99"]
        assert row["goodput"]["median"] <= row["requests_per_second"]["median"]
    lengths = [row["prompt_tokens"] for row in run["rows"]]
    assert lengths[0] - lengths[1] == lengths[2] - lengths[3] == 256 - 26


def test_a_stock_base_is_refused_before_a_server_starts(tmp_path):
    result = run_bench(tmp_path, pocket_llava(), "--engine", "vllm")
    assert result.returncode == 2 and "is a stock base, expected a variant" in result.stderr
