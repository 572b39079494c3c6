"""The scripts of maintainers run as their docstrings say."""

import json
import subprocess
import sys
from pathlib import Path


SCRIPTS = Path(__file__).parents[1] / "scripts"


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
