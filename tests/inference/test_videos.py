"""Video files: reading frames, asking about them from the command line, and files that cannot be read."""

import sys

import numpy as np
import pytest
from PIL import Image

from divprune_hf.cli import main
from divprune_hf.inference.ask import ask_about_video
from divprune_hf.inference.loading import load_pruned
from divprune_hf.inference.pictures import KEPT_OUTLINE
from divprune_hf.inference.videos import is_video, read_video


@pytest.fixture(scope="module")
def checkpoint(make_checkpoint, video_files):
    return make_checkpoint(family="llava_next_video")


def write_video(path, num_frames, frame_rate=8, sound=False):
    """A small video whose frames are ever brighter, or a file with nothing but silence."""
    import av

    with av.open(str(path), "w") as container:
        if sound:
            stream = container.add_stream("aac", rate=44100)
            frames = [av.AudioFrame.from_ndarray(np.zeros((2, 1024), dtype=np.float32), format="fltp", layout="stereo")]
            frames[0].sample_rate = 44100
        else:
            stream = container.add_stream("mpeg4", rate=frame_rate)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            shades = [np.full((48, 64, 3), 250 * i // num_frames, dtype=np.uint8) for i in range(num_frames)]
            frames = [av.VideoFrame.from_ndarray(shade, format="rgb24") for shade in shades]
        for frame in [*frames, None]:
            container.mux(stream.encode(frame))
    return path


def every_frame(path):
    import av

    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


@pytest.mark.parametrize("num_frames", [1, 3, 8])
def test_frames_are_spread_evenly_over_a_real_file(video_files, num_frames):
    for file in video_files:
        all_frames = every_frame(file)
        frames = read_video(file, num_frames)
        assert frames.dtype == np.uint8 and len(frames) == num_frames
        for i, frame in enumerate(frames):
            assert np.array_equal(frame, all_frames[i * len(all_frames) // num_frames])


def test_a_short_video_gives_all_its_frames(video_files, tmp_path):
    file = write_video(tmp_path / "short.mp4", 3)
    assert len(read_video(file, 8)) == 3


def test_a_video_whose_header_has_no_number_of_frames_is_read(video_files, tmp_path):
    file = write_video(tmp_path / "clip.mkv", 20)
    brightness = read_video(file, 5).mean(axis=(1, 2, 3))
    assert len(brightness) == 5 and (np.diff(brightness) > 20).all()


@pytest.mark.parametrize("source", ["a.mp4", "b.MKV", "c.webm", "https://host/d.mov?x=1"])
def test_videos_are_known_by_their_ending(source):
    assert is_video(source) and not is_video("picture.png") and not is_video("https://host/a.jpg?name=b.mp4")


def test_ask_answers_about_a_video_file(checkpoint, video_files, tmp_path, capsys):
    sheet = tmp_path / "kept.png"
    arguments = ["ask", str(checkpoint.variant), str(video_files[1]), "w1 w2", "--max-new-tokens", "4"]
    assert main([*arguments, "--video-num-tokens", "10", "--num-frames", "6", "--show", str(sheet)]) == 0
    said = capsys.readouterr()
    assert "10 of 54 visual tokens kept" in said.err
    model, processor = load_pruned(checkpoint.base, video_num_tokens=10)  # the stock base, pruned in memory
    answer = ask_about_video(model, processor, read_video(video_files[1], 6), "w1 w2", max_new_tokens=4)
    assert (answer.num_kept, answer.num_available) == (10, 54)
    assert said.out.strip() == answer.text
    with Image.open(sheet) as drawn:
        assert drawn.size == answer.picture.size
        pixels = np.asarray(drawn.convert("RGB"))
    assert (pixels == KEPT_OUTLINE).all(-1).any()


def test_each_kept_token_is_drawn_in_its_frame(checkpoint, video_files):
    model, processor = load_pruned(checkpoint.variant, video_num_tokens=1)
    answer = ask_about_video(model, processor, read_video(video_files[0], 4), "w1", max_new_tokens=1)
    outlined = (np.asarray(answer.picture) == KEPT_OUTLINE).all(-1)
    # One token stands for 2 x 2 patches of 4 pixels: the outline of a square of 8.
    assert outlined.sum() == 4 * 8 - 4


def test_a_video_model_answers_about_a_picture(checkpoint, photos, tmp_path, capsys):
    photos[0].save(tmp_path / "photo.png")
    arguments = ["ask", str(checkpoint.variant), str(tmp_path / "photo.png"), "w1", "--num-tokens", "10"]
    assert main([*arguments, "--show", str(tmp_path / "kept.png")]) == 0
    assert "10 of" in capsys.readouterr().err


def corrupt(video_files, path):
    path.write_bytes(video_files[0].read_bytes()[:5000])
    return path


def audio_only(video_files, path):
    return write_video(path, 0, sound=True)


def missing(video_files, path):
    return path


def without_bytes(video_files, path):
    path.write_bytes(b"")
    return path


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (corrupt, "clip.mp4 is not a video that can be read"),
        (audio_only, "clip.mp4 has no pictures in it, only sound"),
        (missing, "clip.mp4 is not a video that can be read"),
        (without_bytes, "clip.mp4 is not a video that can be read"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_files_that_cannot_be_read_are_named_in_one_line(checkpoint, video_files, tmp_path, capsys, make, message):
    file = make(video_files, tmp_path / "clip.mp4")
    assert main(["ask", str(checkpoint.variant), str(file), "w1"]) == 2
    said = capsys.readouterr()
    assert message in said.err and said.err.count("\n") == 1 and not said.out


def test_an_impossible_number_of_frames_is_refused(checkpoint, video_files, capsys):
    assert main(["ask", str(checkpoint.variant), str(video_files[0]), "w1", "--num-frames", "0"]) == 2
    assert "num_frames=0, expected at least 1" in capsys.readouterr().err


def test_a_video_for_a_model_that_takes_pictures_is_refused(family, video_files, capsys):
    assert main(["ask", str(family.variant), str(video_files[0]), "w1"]) == 2
    assert "takes pictures only: use LLaVA-NeXT-Video" in capsys.readouterr().err


def test_video_budgets_are_flags_of_convert(checkpoint, family, tmp_path, capsys):
    assert main(["convert", str(checkpoint.base), str(tmp_path / "out"), "--video-retention-ratio", "0.5"]) == 0
    _, processor = load_pruned(tmp_path / "out")
    assert processor.divprune_config == {"retention_ratio": 0.098, "order": "raster", "video_retention_ratio": 0.5}
    assert main(["convert", str(family.base), str(tmp_path / "other"), "--video-num-tokens", "9"]) == 2
    assert "takes no videos" in capsys.readouterr().err and not (tmp_path / "other").exists()


def test_pyav_is_named_where_it_is_missing(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ValueError, match=r"pip install 'divprune-hf\[video\]'"):
        read_video(tmp_path / "clip.mp4")
