"""The command under bad arguments and odd questions: one line, exit code 2, before a weight is loaded."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from transformers import PreTrainedModel

from divprune_hf.cli import main
from divprune_hf.inference.pictures import save_picture


@pytest.fixture(scope="module")
def media(tmp_path_factory, photos, family, make_checkpoint):
    """What the tables below name: models, pictures, and files that are none."""
    folder = tmp_path_factory.mktemp("media")
    photos[0].save(folder / "photo.png")
    (folder / "text.png").write_text("no picture")
    (folder / "half.png").write_bytes((folder / "photo.png").read_bytes()[:3000])
    (folder / "empty.png").touch()
    (folder / "clip.mp4").write_bytes(b"no video")
    (folder / "folder.png").mkdir()
    os.mkfifo(folder / "pipe.png")
    os.mkfifo(folder / "pipe.mp4")
    other = shutil.copytree(family.base, folder / "other")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "model_type": "bert"}))
    return {
        "model": family.variant,
        "base": family.base,
        "next": make_checkpoint(family="llava_next").variant,
        "other": other,
        "at": folder,
        "photo": folder / "photo.png",
        "clip": folder / "clip.mp4",
    }


@pytest.fixture
def no_weights(monkeypatch):
    """A tripwire: whoever loads weights says so."""

    def load(*arguments, **options):
        raise AssertionError("weights were loaded")

    monkeypatch.setattr(PreTrainedModel, "from_pretrained", load)


def outcome(capsys, arguments):
    """The exit code, and what was printed."""
    capsys.readouterr()
    try:
        code = main(arguments)
    except SystemExit as stop:
        code = stop.code
    said = capsys.readouterr()
    return code, said.out, said.err


REFUSED = [
    # --show
    (["{model}", "{photo}", "w1", "--show", "{at}"], "it is a folder"),
    (["{model}", "{photo}", "w1", "--show", "{at}/folder.png"], "it is a folder"),
    (["{model}", "{photo}", "w1", "--show", ""], "expected a picture file"),
    (["{model}", "{photo}", "w1", "--show", "{at}/no/such/kept.png"], "its folder does not exist"),
    (["{model}", "{photo}", "w1", "--show", "{at}/text.png/kept.png"], "its folder does not exist"),
    (["{model}", "{photo}", "w1", "--show", "{at}/kept"], "ending of a picture format"),
    (["{model}", "{photo}", "w1", "--show", "{at}/kept."], "ending of a picture format"),
    (["{model}", "{photo}", "w1", "--show", "{at}/kept.png.txt"], "ending of a picture format"),
    (["{model}", "{photo}", "w1", "--show", "{at}/kept.wmf"], "ending of a picture format"),
    (["{model}", "{photo}", "w1", "--show", "{at}/kept.hdf"], "ending of a picture format"),
    (["{model}", "{photo}", "w1", "--show", "{at}/kept.psd"], "ending of a picture format"),
    (["{model}", "{photo}", "w1", "--show", "{at}/kept.cur"], "ending of a picture format"),
    (["{model}", "{photo}", "w1", "--show", "{at}/pipe.png"], "neither a file nor free"),
    (["{model}", "{photo}", "w1", "--show", "{photo}"], "choose another file"),
    (["{model}", "{photo}", "w1", "--show", "{at}/./photo.png"], "choose another file"),
    # the answer's length
    (["{model}", "{photo}", "w1", "--max-new-tokens", "0"], "max_new_tokens=0"),
    (["{model}", "{photo}", "w1", "--max-new-tokens", "-3"], "max_new_tokens=-3"),
    (["{model}", "{photo}", "w1", "--max-new-tokens", "1e3"], "invalid int value"),
    (["{model}", "{photo}", "w1", "--max-new-tokens", "99999999999999999999"], "max_new_tokens=99999999999999999999"),
    # budgets
    (["{model}", "{photo}", "w1", "--video-num-tokens", "5"], "takes no videos"),
    (["{base}", "{photo}", "w1", "--video-num-tokens", "5"], "takes no videos"),
    (["{next}", "{photo}", "w1", "--video-retention-ratio", "0.5"], "takes no videos"),
    (["{model}", "{photo}", "w1", "--num-tokens", "0"], "num_tokens=0"),
    (["{model}", "{photo}", "w1", "--num-tokens", "-1"], "num_tokens=-1"),
    (["{model}", "{photo}", "w1", "--retention-ratio", "0"], "retention_ratio=0.0"),
    (["{model}", "{photo}", "w1", "--retention-ratio", "1.01"], "retention_ratio=1.01"),
    (["{model}", "{photo}", "w1", "--retention-ratio", "inf"], "retention_ratio=inf"),
    (["{model}", "{photo}", "w1", "--retention-ratio", "nan"], "retention_ratio=nan"),
    (["{model}", "{photo}", "w1", "--num-tokens", "5", "--retention-ratio", "0.5"], "not allowed with"),
    (["{model}", "{photo}", "w1", "--num-frames", "4"], "num_frames=4 for a picture"),
    (["{model}", "{photo}", "w1", "--num-frames", "0"], "num_frames=0 for a picture"),
    # what is asked about
    (["{model}", "{clip}", "w1"], "takes pictures only"),
    (["{base}", "{clip}", "w1"], "takes pictures only"),
    (["{next}", "{at}/none.mkv", "w1"], "takes pictures only"),
    (["{model}", "{at}/none.png", "w1"], "is not a picture"),
    (["{model}", "{at}/text.png", "w1"], "is not a picture"),
    (["{model}", "{at}/half.png", "w1"], "is not a picture"),
    (["{model}", "{at}/empty.png", "w1"], "is not a picture"),
    (["{model}", "{at}/folder.png", "w1"], "is not a picture"),
    (["{model}", "{at}/pipe.png", "w1"], "is not a picture"),
    (["{model}", "", "w1"], "is not a picture"),
    (["{model}", "{photo}", "w1 \udcff"], "not text from character 4 on"),
    (["{model}", "{photo}"], "required: QUESTION"),
    # where
    (["{model}", "{photo}", "w1", "--device", "toaster"], "toaster"),
    (["{model}", "{photo}", "w1", "--device", "meta"], "device='meta'"),
    (["{model}", "{photo}", "w1", "--device", "mps"], "device='mps'"),
    (["{model}", "{photo}", "w1", "--device", "cuda:99"], "device='cuda:99'"),
    (["{model}", "{photo}", "w1", "--device", ""], ""),
    # the model
    (["{model}", "{photo}", "w1", "--revision", "v1"], "only Hub repos have revisions"),
    (["{other}", "{photo}", "w1"], "'bert'"),
    (["{at}", "{photo}", "w1"], ""),
    (["{at}/none", "{photo}", "w1"], ""),
    (["{photo}", "{photo}", "w1"], ""),
    (["", "{photo}", "w1"], ""),
]
VIDEO_REFUSED = [
    (["{video}", "{clip}", "w1", "--num-tokens", "5"], "Got --num-tokens for a question about a video"),
    (["{video}", "{clip}", "w1", "--retention-ratio", "0.5"], "Got --retention-ratio for a question about a video"),
    (["{video}", "{photo}", "w1", "--video-num-tokens", "5"], "Got --video-num-tokens for a question about a picture"),
    (["{video}", "{clip}", "w1"], "clip.mp4 is not a video that can be read"),
    (["{video}", "{at}/pipe.mp4", "w1"], "is not a file"),
    (["{video}", "{at}/none.mp4", "w1"], "is not a video that can be read"),
    (["{video}", "{clip}", "w1", "--num-frames", "0"], "num_frames=0, expected at least 1"),
    (["{video}", "{clip}", "w1", "--max-new-tokens", "0"], "max_new_tokens=0"),
]


def named(value):
    return " ".join(map(ascii, value)) if isinstance(value, list) else ""


def check_refused(capsys, arguments, message, names):
    code, out, err = outcome(capsys, ["ask", *(argument.format(**names) for argument in arguments)])
    assert (code, out) == (2, "")
    assert err.count("\n") == 1 and err.startswith("divprune-hf: error: ") and message in err
    assert "weights were loaded" not in err


@pytest.mark.parametrize(("arguments", "message"), REFUSED, ids=named)
def test_bad_arguments_are_one_line_before_weights_are_loaded(no_weights, media, capsys, arguments, message):
    check_refused(capsys, arguments, message, media)


@pytest.mark.parametrize(("arguments", "message"), VIDEO_REFUSED, ids=named)
def test_bad_arguments_about_videos_are_one_line(
    no_weights, media, make_checkpoint, video_files, capsys, arguments, message
):
    names = {**media, "video": make_checkpoint(family="llava_next_video").variant}
    check_refused(capsys, arguments, message, names)


def test_the_tripwire_is_there(no_weights, media, capsys):
    code, _, err = outcome(capsys, ["ask", str(media["model"]), str(media["photo"]), "w1"])
    assert code == 2 and "weights were loaded" in err


@pytest.mark.parametrize("ending", ["png", "PNG", "jpg", "webp", "gif", "bmp", "tiff", "pdf"])
def test_formats_that_pillow_writes_are_written(media, tmp_path, capsys, ending):
    shown = tmp_path / f"kept.{ending}"
    assert main(["ask", str(media["model"]), str(media["photo"]), "w1", "--show", str(shown)]) == 0
    assert shown.stat().st_size > 100 and list(tmp_path.iterdir()) == [shown]


def test_a_drawing_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    shown = tmp_path / "kept.png"
    shown.write_bytes(b"old")

    def fail(picture, file, format):
        if not isinstance(file, Path):  # the trial in memory
            return
        Path(file).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(KeyboardInterrupt):
        save_picture(Image.new("RGB", (4, 4)), shown)
    assert shown.read_bytes() == b"old" and list(tmp_path.iterdir()) == [shown]


DEMO_REFUSED = ["{at}", "{at}/no/such/kept.png", "{at}/kept.xyz", "{at}/kept.wmf", ""]


@pytest.mark.parametrize("shown", DEMO_REFUSED)
def test_the_demo_refuses_a_bad_picture_file_first(media, capsys, shown):
    code, out, err = outcome(capsys, ["demo", "--show", shown.format(**media)])
    assert (code, out, err.count("\n")) == (2, "", 1) and "cannot be written" in err


def test_a_broken_connection_is_no_closed_pipe(capsys, monkeypatch):
    """It raises the same exception."""
    from divprune_hf.cli import inference_commands

    monkeypatch.setattr(
        inference_commands, "run_ask", lambda options: (_ for _ in ()).throw(BrokenPipeError(32, "Broken pipe"))
    )
    assert outcome(capsys, ["ask", "model", "photo.png", "w1"])[::2] == (
        2,
        "divprune-hf: error: [Errno 32] Broken pipe\n",
    )


def test_every_help_fits_one_column(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "1")
    for command in ([], ["ask"], ["convert"], ["push"], ["publish"], ["verify"], ["demo"]):
        code, out, err = outcome(capsys, [*command, "--help"])
        assert (code, err) == (0, "") and "divprune-hf" in out
    assert outcome(capsys, ["ask"])[0] == 2


def test_frames_beyond_a_video_cost_no_memory(video_files):
    from divprune_hf.inference.videos import read_video

    assert np.array_equal(read_video(video_files[1], 10**12), read_video(video_files[1], 10**6))
