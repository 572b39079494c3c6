"""Every command and code block of the README runs, on pocket-llava standing in for the big models."""

import re
import shlex
from pathlib import Path

import pytest
from PIL import Image

from divprune_hf import convert_checkpoint
from divprune_hf.cli import main
from divprune_hf.package_data import pocket_llava


ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SETUP = ("python -m pip install . && divprune-hf demo", "python -m pip install -e '.[test]' && python -m pytest")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


@pytest.fixture
def folder_with_stand_ins(tmp_path, monkeypatch):
    """A working folder where the README's names mean pocket-llava, its variant and one of its scenes."""
    monkeypatch.chdir(tmp_path)
    convert_checkpoint(pocket_llava(), "org/llava-1.5-7b-divprune")
    (tmp_path / "llava-hf").mkdir()
    (tmp_path / "llava-hf" / "llava-1.5-7b-hf").symlink_to(pocket_llava())
    Image.open(pocket_llava() / "examples" / "scene_00.png").save("photo.png")
    return tmp_path


@pytest.mark.parametrize("code", blocks("python"), ids=lambda code: code.split("\n")[0])
def test_python_blocks_run_as_remote_code_or_with_the_package(folder_with_stand_ins, run_isolated, code):
    if "divprune_hf" in code:
        exec(compile(code, "README.md", "exec"), {})
    else:
        output = run_isolated(f"import os\nos.chdir({str(folder_with_stand_ins)!r})\n{code}")
        assert re.search(r"ASSISTANT ?: (yes|no)", output, flags=re.IGNORECASE), output


def test_console_commands_run(folder_with_stand_ins):
    """Those that speak to the Hub are in tests/publishing/test_docs.py."""
    lines = [line for block in blocks("console") for line in block.splitlines() if line not in SETUP]
    commands = [line for line in lines if line.split()[1] not in ("push", "publish", "verify")]
    assert len(commands) == 2
    for command in commands:
        name, *arguments = shlex.split(command)
        assert name == "divprune-hf"
        assert main(arguments) == 0
    assert Image.open("kept.png").size == (224, 224)


def test_the_set_up_commands_are_those_that_ci_runs():
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    for command in SETUP:
        assert command in README
    assert "python -m pip install -e '.[test]' -q && python -m pytest" in ci and "divprune-hf demo" in ci


def test_every_file_that_the_readme_names_exists():
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README) + re.findall(r"`(scripts/[\w./]+)`", README):
        assert (ROOT / target).exists(), target
