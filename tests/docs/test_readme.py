"""Every command and code block of the README runs, on pocket-llava standing in for the big models."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import skimage
from PIL import Image

from divprune_hf import convert_checkpoint
from divprune_hf.cli import main
from divprune_hf.cli.parser import build_parser
from divprune_hf.common.pocket_llava import pocket_llava


ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SETUP = (
    "python -m pip install . && divprune-hf demo",
    "python -m pip install -e '.[test]' && python -m pytest",
    "python -m pip install -U torch torchvision av",
)


def blocks(language, about_videos=False):
    found = re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)
    return [block for block in found if ("clip.mp4" in block) == about_videos]


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


@pytest.fixture
def folder_with_video_stand_ins(tmp_path, monkeypatch, video_files, make_checkpoint):
    """The same for videos: a tiny LLaVA-NeXT-Video and a real file."""
    checkpoint = make_checkpoint(family="llava_next_video")
    monkeypatch.chdir(tmp_path)
    for name, folder in (("llava-hf/LLaVA-NeXT-Video-7B-hf", "base"), ("org/llava-next-video-7b-divprune", "variant")):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).symlink_to(getattr(checkpoint, folder))
    (tmp_path / "clip.mp4").symlink_to(video_files[0])
    return tmp_path


def run_console(about_videos=False):
    """Run the commands of the README but those that speak to the Hub: those are in test_hub_commands.py."""
    lines = [line for block in blocks("console", about_videos) for line in block.splitlines() if line not in SETUP]
    elsewhere = ("push", "publish", "verify", "evaluate", "bench")
    commands = [line for line in lines if line.split()[1] not in elsewhere]
    assert len(commands) == 2
    for command in commands:
        name, *arguments = shlex.split(command)
        assert name == "divprune-hf"
        assert main(arguments) == 0


def test_console_commands_run(folder_with_stand_ins):
    run_console()
    assert Image.open("kept.png").size == (224, 224)


def test_console_commands_about_videos_run(folder_with_video_stand_ins):
    run_console(about_videos=True)
    assert Image.open("kept.png").width > 4 * 24


def test_the_commands_that_take_minutes_parse():
    (block,) = re.findall(r"<!-- takes: .* -->\n```console\n(.*?)```", README, flags=re.DOTALL)
    for line in block.splitlines():
        name, *arguments = shlex.split(line)
        assert name == "divprune-hf" and callable(build_parser().parse_args(arguments).run)


def test_the_set_up_commands_are_those_that_ci_runs():
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    for command in SETUP:
        assert command in README
    assert "python -m pip install -e '.[test]' -q && python -m pytest" in ci and "divprune-hf demo" in ci
    assert "environment torch -q -U torch torchvision av" in ci


def test_every_file_that_the_readme_names_exists():
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README) + re.findall(r"`(scripts/[\w./]+)`", README):
        assert (ROOT / target).exists(), target


def test_the_figures_are_those_of_the_runs():
    runs = ROOT / "docs"
    tiny = json.loads((runs / "performance" / "tiny-cpu.json").read_text(encoding="utf-8"))
    stock, ours, oracle = (row for row in tiny["rows"] if (row["batch"], row["budget"]) == (1, 0.098))
    assert f"| {stock['prefill_ms']:,.0f} ms | {ours['prefill_ms']:,.0f} ms |" in plain_table()
    assert f"| {stock['kv_bytes'] / 1e6:.1f} MB | {ours['kv_bytes'] / 1e6:.1f} MB |" in plain_table()
    assert f"ours takes {ours['prefill_ms'] / oracle['prefill_ms']:.2f} times its time" in " ".join(README.split())
    evidence = json.loads((runs / "evidence" / "pocket-llava" / "results.json").read_text(encoding="utf-8"))
    share = {
        (row["kind"], row["budget"]): f"{row['accuracy']:.1%}"
        for row in evidence["means"]
        if row["selector"] == "max_min"
    }
    assert f"| {share['presence', 1.0]} | {share['presence', 0.098]} |" in plain_table()
    counting_and_position = (f"{share['counting', b]}, {share['position', b]}" for b in (1.0, 0.098))
    assert f"| {' | '.join(counting_and_position)} |" in plain_table()
    (lead,) = (
        row["difference"]
        for row in evidence["differences"]
        if (row["kind"], row["budget"], row["other"]) == ("presence", 0.098, "random")
    )
    assert f"leads random by {100 * lead:.1f} points" in " ".join(README.split())
    assert tiny["date"] in README and evidence["date"] in README


def plain_table():
    """The README with single spaces, so that the alignment of tables does not matter."""
    return re.sub(" +", " ", README)


def test_the_picture_is_what_its_command_draws(tmp_path, monkeypatch):
    (command,) = re.findall(r"`(divprune-hf ask model_cards/pocket-llava chelsea.png [^`]*)`", " ".join(README.split()))
    monkeypatch.chdir(tmp_path)
    Image.open(Path(skimage.data_dir) / "chelsea.png").save("chelsea.png")
    (tmp_path / "model_cards").mkdir()
    (tmp_path / "model_cards" / "pocket-llava").symlink_to(pocket_llava())
    assert main(shlex.split(command)[1:]) == 0
    drawn, shown = (
        np.asarray(Image.open(path).convert("RGB"), dtype=float)
        for path in ("kept_patches.png", ROOT / "docs" / "images" / "kept_patches.png")
    )
    # A release may resize a picture a little differently; other patches would differ by more.
    assert drawn.shape == shown.shape and abs(drawn - shown).mean() < 3


def test_the_readme_is_short():
    assert len(README.splitlines()) < 180
