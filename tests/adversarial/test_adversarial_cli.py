"""The command under bad arguments, signals, closed pipes and poor terminals: one line, the right code, no traceback.

Nothing is half written, and what can be refused is refused before a weight is loaded.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from transformers import AutoProcessor, PreTrainedModel

from divprune_hf.ask import as_plain_text, ask, chat_prompt, special_tokens
from divprune_hf.cli import main
from divprune_hf.loading import load_pruned
from divprune_hf.package_data import pocket_llava
from divprune_hf.pictures import save_picture


SOURCES = str(Path(__file__).parents[2] / "src")
COMMAND = [sys.executable, "-c", "import sys; from divprune_hf_console import main; sys.exit(main())"]
QUIET = {
    "TQDM_DISABLE": "1",
    "HF_HUB_OFFLINE": "1",
    "PYTHONUNBUFFERED": "",
    "PYTHONPATH": os.pathsep.join([SOURCES, *sys.path]),
}


def run(*arguments, environment=None, **options):
    """Run the command as its console script does, in a process of its own."""
    variables = {**os.environ, **QUIET, **(environment or {})}
    variables = {name: value for name, value in variables.items() if value is not None}
    return subprocess.run([*COMMAND, *arguments], env=variables, capture_output=True, timeout=300, **options)


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


# --- questions that hold special tokens ---

QUESTIONS = [
    "What does <image> mean?",
    "<image>",
    "<image><image>",
    "<image> <video> <image>",
    "w1 <image>\nw2",
    "<<image>>",
    "< image>",
    "<im<image>age>",
    "</s> w1",
    "<s><pad><unk>",
    "é <image> 中",
]


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_question_may_name_the_placeholder(case, photos, question):
    """The prompt has the placeholders of the one picture, and no special token that the question would not have."""
    model, processor = load_pruned(case.checkpoint.variant)
    answer = ask(model, processor, photos[0], question, max_new_tokens=2)
    assert answer.num_kept < answer.num_available

    def counts(question):
        prompt = chat_prompt(processor, "image", question)
        ids = np.array(processor(images=photos[0], text=prompt)["input_ids"][0]).tolist()
        return [ids.count(token) for token in processor.tokenizer.all_special_ids]

    unknown = processor.tokenizer.all_special_ids.index(processor.tokenizer.unk_token_id)
    asked, plain = counts(question), counts("w1")
    del asked[unknown], plain[unknown]
    assert asked == plain


@pytest.mark.parametrize("with_template", [True, False], ids=["template", "plain_prompt"])
@pytest.mark.parametrize("question", QUESTIONS)
def test_a_real_tokenizer_reads_the_question_as_text(question, with_template):
    """That of pocket-llava: all the question's letters arrive, and the placeholder once."""
    processor = AutoProcessor.from_pretrained(pocket_llava())
    if not with_template:
        processor.chat_template = None
    prompt = chat_prompt(processor, "image", question)
    assert prompt.count("<image>") == 1
    assert question.replace(" ", "") in prompt.replace(" ", "")


def test_a_question_about_a_video_may_name_the_placeholder(make_checkpoint, clips):
    from divprune_hf.ask import ask_about_video

    model, processor = load_pruned(make_checkpoint(family="llava_next_video").variant)
    answer = ask_about_video(model, processor, clips[0], "w1 <video> w2 <image>", max_new_tokens=2)
    assert answer.num_kept < answer.num_available


def test_a_question_without_special_tokens_stays_as_it_is():
    processor = AutoProcessor.from_pretrained(pocket_llava())
    for question in ("Is there a bag?", "a < b > c", "<b>image</b>", "image"):
        assert as_plain_text(question, special_tokens(processor.tokenizer)) == question


# --- signals ---


def start_and_wait_for_handlers(arguments, folder):
    """Start the command; return its process once it handles SIGTERM, which Python itself does not."""
    environment = {**os.environ, **QUIET, "TMPDIR": str(folder)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen([*COMMAND, *arguments], env=environment, start_new_session=True, **pipes)
    while True:
        status = Path(f"/proc/{process.pid}/status").read_text()
        caught = next((line for line in status.splitlines() if line.startswith("SigCgt")), "SigCgt 0")
        if int(caught.split()[-1], 16) >> (signal.SIGTERM - 1) & 1 or process.poll() is not None:
            return process
        time.sleep(0.002)


SIGNALS = {signal.SIGINT: 130, signal.SIGTERM: 143}
SEED = random.SystemRandom().randrange(2**32)
DRAW = random.Random(SEED)
# Shares of the time that a run takes, most of which is imports.
MOMENTS = [(sent, share, DRAW.uniform(share, share + 0.2)) for sent in SIGNALS for share in (0, 0.3, 0.6, 0.8)]


@pytest.fixture(scope="module")
def duration(media, tmp_path_factory):
    """How long a question takes."""
    began = time.monotonic()
    arguments = ["ask", str(media["model"]), str(media["photo"]), "w1", "--max-new-tokens", "64"]
    start_and_wait_for_handlers(arguments, tmp_path_factory.mktemp("tmp")).communicate(timeout=300)
    return time.monotonic() - began


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the signals that a process handles")
@pytest.mark.parametrize(("sent", "share", "moment"), MOMENTS, ids=[f"{s.name}-{share}" for s, share, _ in MOMENTS])
def test_a_signal_at_any_moment_ends_the_command_quietly(media, duration, tmp_path, sent, share, moment):
    """From the start-up imports on, while a question is answered and a picture drawn."""
    print(f"seed {SEED}")
    (tmp_path / "tmp").mkdir()
    shown = tmp_path / "kept.png"
    arguments = ["ask", str(media["model"]), str(media["photo"]), "w1", "--show", str(shown)]
    process = start_and_wait_for_handlers(arguments, tmp_path / "tmp")
    time.sleep(moment * duration)
    process.send_signal(sent)
    out, err = process.communicate(timeout=120)
    assert process.returncode in (SIGNALS[sent], 0)  # 0: it was done, which a loaded machine may make of any moment
    if process.returncode:
        assert (
            err.decode() in ("", "divprune-hf: interrupted\n", "divprune-hf: terminated\n")
            or "tokens kept" in err.decode()
        )
    assert "Traceback" not in err.decode() and "ignored" not in err.decode()
    left = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert left in ([], [shown])
    if left:
        Image.open(shown).load()
    if share == 0:
        assert (process.returncode, out) == (SIGNALS[sent], b"")


INTERRUPTED = """
import sys, divprune_hf_console, divprune_hf.cli as cli, signal
def ask(options):
    {body}
cli.run_ask = ask
sys.exit(divprune_hf_console.main())
"""
HIDDEN = {
    "raised": "signal.raise_signal(signal.{name})",
    "caught": "\n    try: signal.raise_signal(signal.{name})\n    except BaseException: pass",
    "made_an_error": "\n    try: signal.raise_signal(signal.{name})\n    except BaseException: raise OSError('broken')",
}


@pytest.mark.parametrize(("body", "name"), [*((body, "SIGINT") for body in HIDDEN), ("caught", "SIGTERM")])
def test_a_library_cannot_hide_that_the_user_wants_out(media, body, name):
    code = INTERRUPTED.format(body=HIDDEN[body].format(name=name))
    command = [sys.executable, "-c", code, "ask", "model", "photo.png", "w1"]
    result = subprocess.run(command, env={**os.environ, **QUIET}, capture_output=True, timeout=300)
    assert result.returncode == SIGNALS[getattr(signal, name)]
    assert b"Traceback" not in result.stderr


# --- pipes ---


def piped(arguments, read, stream):
    """Run the command with a pipe whose reader reads `read` bytes and goes: its exit code, and the other stream."""
    other = "stderr" if stream == "stdout" else "stdout"
    pipes = {stream: subprocess.PIPE, other: subprocess.PIPE}
    process = subprocess.Popen([*COMMAND, *arguments], env={**os.environ, **QUIET}, **pipes)
    pipe = getattr(process, stream)
    if read:
        pipe.read(read)
    pipe.close()
    rest = getattr(process, other).read()
    return process.wait(timeout=300), rest


PIPED = [
    (["ask", "--help"], 1, "stdout"),
    (["--version"], 0, "stdout"),
    (["convert", "{base}", "{at}/out-1"], 0, "stdout"),
    (["ask", "{model}", "{photo}", "w1"], 0, "stderr"),
]


@pytest.mark.parametrize(("arguments", "read", "stream"), PIPED, ids=lambda value: ascii(value)[:40])
def test_a_reader_that_goes_ends_the_command_quietly(media, arguments, read, stream):
    code, rest = piped([argument.format(**media) for argument in arguments], read, stream)
    assert code in (141, 0) and (read or code == 141)
    assert b"Traceback" not in rest and b"rror" not in rest and b"ignored" not in rest


def test_head_ends_quietly(media):
    command = f"{' '.join(map(repr, COMMAND))} --help | head -1"
    result = subprocess.run(command, shell=True, env={**os.environ, **QUIET}, capture_output=True, timeout=300)
    assert result.stdout.startswith(b"usage: divprune-hf") and result.stderr == b""


def test_a_broken_connection_is_no_closed_pipe(capsys, monkeypatch):
    """It raises the same exception."""
    from divprune_hf import cli

    monkeypatch.setattr(cli, "run_ask", lambda options: (_ for _ in ()).throw(BrokenPipeError(32, "Broken pipe")))
    assert outcome(capsys, ["ask", "model", "photo.png", "w1"])[::2] == (
        2,
        "divprune-hf: error: [Errno 32] Broken pipe\n",
    )


def test_a_full_disk_is_one_line(media):
    with open("/dev/full", "w") as full:
        command = [*COMMAND, "ask", str(media["model"]), str(media["photo"]), "w1"]
        result = subprocess.run(command, env={**os.environ, **QUIET}, stdout=full, stderr=subprocess.PIPE, timeout=300)
    lines = result.stderr.decode().splitlines()
    assert result.returncode == 2 and "No space left" in lines[-1] and "Traceback" not in result.stderr.decode()


# --- poor terminals ---

NO_UTF8 = {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": None, "PYTHONCOERCECLOCALE": "0"}
TERMINALS = {
    "c_locale": NO_UTF8,
    "posix_lang_alone": {**NO_UTF8, "LC_ALL": None, "LANG": "POSIX"},
    "ascii_streams": {"PYTHONIOENCODING": "ascii"},
    "latin_streams": {"PYTHONIOENCODING": "latin-1"},
    "one_column": {"COLUMNS": "1", "LINES": "1"},
    "no_term": {"TERM": None, "COLUMNS": "0", "HOME": "/nonexistent"},
}


@pytest.fixture(scope="module")
def foreign_names(media, tmp_path_factory):
    """A model and a picture with names beyond ASCII."""
    folder = tmp_path_factory.mktemp("names") / "Bögen 中 🎈"
    folder.mkdir()
    shutil.copytree(media["model"], folder / "Modell é")
    shutil.copy(media["photo"], folder / "Foto ü.png")
    return folder


@pytest.mark.parametrize("environment", TERMINALS.values(), ids=TERMINALS)
def test_names_and_questions_beyond_ascii_work_everywhere(foreign_names, tmp_path, environment):
    shown, out = tmp_path / "gezeigt ñ.png", tmp_path / "schlank ß"
    arguments = [foreign_names / "Modell é", foreign_names / "Foto ü.png", "w1 wäre 中 🎈", "--show", shown]
    asked = run("ask", *arguments, environment=environment, stdin=subprocess.DEVNULL)
    assert asked.returncode == 0, asked.stderr
    assert b"visual tokens kept" in asked.stderr and asked.stdout.strip() and shown.is_file()
    if environment != NO_UTF8:
        return
    made = run("convert", foreign_names / "Modell é", out, "--num-tokens", "3", environment=environment)
    assert made.returncode == 0, made.stderr
    assert json.loads((out / "config.json").read_text())["divprune_config"]["num_tokens"] == 3
    assert out.name in (out / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("environment", [NO_UTF8, TERMINALS["ascii_streams"]], ids=["c_locale", "ascii_streams"])
def test_errors_about_names_beyond_ascii_are_one_line(foreign_names, environment):
    refused = run("ask", foreign_names / "Modell é", foreign_names / "fehlt ü.png", "w1", environment=environment)
    assert refused.returncode == 2 and refused.stdout == b""
    assert refused.stderr.startswith(b"divprune-hf: error: ") and refused.stderr.count(b"\n") == 1


def test_the_answers_are_those_of_a_good_terminal(foreign_names):
    arguments = ["ask", foreign_names / "Modell é", foreign_names / "Foto ü.png", "w1 w2 wäre"]
    assert run(*arguments, environment=NO_UTF8).stdout == run(*arguments).stdout != b""


def test_a_name_that_is_no_utf8_works(media, tmp_path):
    picture = os.fsencode(tmp_path) + b"/photo \xe9.png"
    shutil.copy(media["photo"], picture)
    asked = run("ask", media["model"], picture, "w1")
    assert asked.returncode == 0, asked.stderr
    made = run("convert", media["base"], os.fsencode(tmp_path) + b"/out-\xe9")
    assert made.returncode in (0, 2) and b"Traceback" not in made.stderr
    assert (made.returncode == 0) == os.path.exists(os.fsencode(tmp_path) + b"/out-\xe9")


@pytest.mark.parametrize("closed", [">&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_error(media, closed):
    command = f'exec "$@" {closed}'
    arguments = [*COMMAND, "ask", str(media["model"]), str(media["photo"]), "w1"]
    environment = {**os.environ, **QUIET}
    result = subprocess.run(["sh", "-c", command, "sh", *arguments], env=environment, capture_output=True, timeout=300)
    assert result.returncode == 0 and b"Traceback" not in result.stderr


def test_every_help_fits_one_column(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "1")
    for command in ([], ["ask"], ["convert"], ["push"], ["publish"], ["verify"], ["demo"]):
        code, out, err = outcome(capsys, [*command, "--help"])
        assert (code, err) == (0, "") and "divprune-hf" in out
    assert outcome(capsys, ["ask"])[0] == 2


def test_frames_beyond_a_video_cost_no_memory(video_files):
    from divprune_hf.videos import read_video

    assert np.array_equal(read_video(video_files[1], 10**12), read_video(video_files[1], 10**6))
