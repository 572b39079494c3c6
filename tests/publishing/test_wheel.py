"""The wheel, installed outside the clone, has all it needs: the demo runs from there."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path


ROOT = Path(__file__).parents[2]


def test_the_wheel_carries_the_model_the_template_and_the_type_marker(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    data = {
        "divprune_hf/cards/assets/variant_card.md",
        "divprune_hf/cards/assets/variants.toml",
        "divprune_hf/pocket-llava/model.safetensors",
    }
    code = {f"divprune_hf/remote_code/{path.name}" for path in (ROOT / "src/divprune_hf/remote_code").glob("*.py")}
    assert data | code | {"divprune_hf/py.typed"} <= names


def test_the_demo_runs_from_the_installed_wheel(installed_wheel, tmp_path):
    code = (
        "import json, divprune_hf, divprune_hf.cli.demo as demo\n"
        "figures = demo.run_demo('kept.png')\n"
        "print(json.dumps({'file': divprune_hf.__file__, **figures}))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(installed_wheel), "HF_HUB_OFFLINE": "1"}
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    figures = json.loads(result.stdout.splitlines()[-1])
    assert Path(figures["file"]).is_relative_to(installed_wheel)
    assert figures["full"]["visual_tokens"] == 256 and figures["pruned"]["visual_tokens"] == 25
    assert figures["full"]["prompt_tokens"] - figures["pruned"]["prompt_tokens"] == 256 - 25
    assert "| question" in result.stdout and (tmp_path / "kept.png").stat().st_size > 10_000
