"""The maintainers' scripts: every module imports, and their texts name commands and modules that exist."""

import importlib
import re
from importlib.util import find_spec
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "scripts").rglob("*.py"))


def module_of(file):
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@pytest.mark.parametrize("name", map(module_of, FILES))
def test_every_script_imports(name):
    assert importlib.import_module(name).__doc__


def test_the_modules_that_scripts_name_exist():
    named = {
        name
        for file in FILES
        for name in re.findall(r"\bscripts\.training(?:\.\w+)+", file.read_text(encoding="utf-8"))
    }
    assert len(named) > 8 and all(find_spec(name) for name in named)
    files = {name for file in FILES for name in re.findall(r"\bscripts/[\w/]+\.py\b", file.read_text(encoding="utf-8"))}
    assert len(files) >= 4 and all((ROOT / name).is_file() for name in files)
