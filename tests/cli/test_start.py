"""The start of `divprune-hf`: help, version and errors of usage come at once, and every setting is a flag."""

import argparse
import resource
import subprocess
import sys

import pytest

from divprune_hf.cli.parser import build_parser
from divprune_hf.cli.settings_flags import flag, given_settings
from divprune_hf.inference.videos import DEFAULT_NUM_FRAMES
from divprune_hf.remote_code.settings import SETTINGS


SECONDS = 0.5  # of the processor


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["ask", "--help"], ["convert", "--nonsense"]], ids=str
)
def test_what_needs_no_model_imports_neither_torch_nor_transformers(arguments):
    code = (
        "import sys, divprune_hf_console\n"
        "try:\n    divprune_hf_console.main()\n"
        "finally:\n    print(sorted({'torch', 'transformers', 'numpy'} & set(sys.modules)), file=sys.stderr)\n"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert result.stderr.splitlines()[-1] == "[]"
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < SECONDS
    assert result.returncode == (2 if "--nonsense" in arguments else 0)


@pytest.mark.parametrize(
    "command", [["convert", "BASE", "OUT"], ["publish", "BASE", "ORG/X"], ["ask", "M", "F", "Q"], ["serve", "M"]]
)
@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_is_a_flag_of_every_command_that_makes_a_model(command, name):
    value = (SETTINGS[name].choices or ("1",))[-1]
    options = build_parser().parse_args([*command, flag(name), value])
    assert given_settings(options) == {name: SETTINGS[name].kind(value)}


def test_the_help_tells_how_many_frames_are_taken(capsys):
    with pytest.raises(SystemExit):
        build_parser().parse_args(["ask", "--help"])
    assert f"frames to take of a video ({DEFAULT_NUM_FRAMES})" in " ".join(capsys.readouterr().out.split())


def test_two_budgets_of_one_kind_are_an_error_of_usage(capsys):
    with pytest.raises(SystemExit) as stopped:
        build_parser().parse_args(["convert", "BASE", "OUT", "--num-tokens", "5", "--retention-ratio", "0.5"])
    assert stopped.value.code == 2 and "not allowed with" in capsys.readouterr().err
    assert isinstance(build_parser(), argparse.ArgumentParser)
