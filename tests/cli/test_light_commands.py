"""The files of commands cost nothing to import: `divprune-hf --help` waits for no library."""

import subprocess
import sys
from pathlib import Path

import pytest

import divprune_hf


HEAVY = {"torch", "transformers", "matplotlib", "sklearn", "numpy", "PIL"}
# The packages themselves are stood in for: what is asked is what the file imports.
CODE = """
import importlib, sys, types
for name, folder in (("divprune_hf", sys.argv[1]), ("divprune_hf.cli", sys.argv[1] + "/cli")):
    package = sys.modules[name] = types.ModuleType(name)
    package.__path__ = [folder]
importlib.import_module(sys.argv[2])
print(*sys.modules)
"""


@pytest.mark.parametrize("name", ["evaluation_commands", "benchmark_commands", "serving_commands"])
def test_a_file_of_commands_imports_no_heavy_library(name):
    command = [sys.executable, "-c", CODE, str(Path(divprune_hf.__file__).parent), f"divprune_hf.cli.{name}"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    imported = set(result.stdout.split())
    assert f"divprune_hf.cli.{name}" in imported and not imported & HEAVY
