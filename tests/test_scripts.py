"""The scripts of maintainers run as their docstrings say."""

import json
import subprocess
import sys
from pathlib import Path


SCRIPTS = Path(__file__).parents[1] / "scripts"


def test_benchmark_selection_measures_every_path(tmp_path):
    command = [sys.executable, str(SCRIPTS / "benchmark_selection.py"), "--repeats", "2", "--tokens", "40", "60"]
    result = subprocess.run([*command, "--json", str(tmp_path / "rows.json")], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert [(row["tokens"], row["kept"], row["path"]) for row in rows] == [
        (tokens, kept, path) for tokens, kept in ((40, 4), (60, 6)) for path in ("gram", "naive", "torch")
    ]
    assert all(row["milliseconds"] > 0 and row["over_gram"] > 0 for row in rows)
    assert result.stdout.count("\n|") == 7
