"""Python in a process of its own: what it prints, and how its failure is told."""

import pytest

from divprune_hf.common.own_process import run_python


def test_the_output_comes_back(tmp_path):
    code = "import os, sys; print(os.getcwd(), sys.argv[1], os.environ.get('WORD'))"
    assert run_python(["-c", code, "x"], "it", tmp_path, {"WORD": "y"}) == f"{tmp_path} x y\n"


@pytest.mark.parametrize(
    ("code", "error"), [("raise KeyError('k')", "the task failed: KeyError: 'k'"), ("exit(3)", "failed: exit code 3")]
)
def test_a_failure_is_one_line(tmp_path, code, error):
    with pytest.raises(OSError, match=error):
        run_python(["-c", code], "the task", tmp_path)
