"""The command in a process of its own, under signals, closed pipes and poor terminals: it ends quietly, and whole."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from tests.helpers import warm_python


SOURCES = str(Path(__file__).parents[2] / "src")
COMMAND = [sys.executable, "-c", "import sys; from divprune_hf_console import main; sys.exit(main())"]
QUIET = {
    "TQDM_DISABLE": "1",
    "HF_HUB_OFFLINE": "1",
    "PYTHONUNBUFFERED": "",  # else argparse meets the closed pipe, and says nothing
    "PYTHONPATH": os.pathsep.join([SOURCES, *sys.path]),
}


def run(*arguments, environment=None, **options):
    """Run the command as its console script does, in a process of its own.

    It is started where the environment is one that Python reads as it starts, and forked elsewhere (`warm_python`).
    """
    variables = {**os.environ, **QUIET, **(environment or {})}
    variables = {name: value for name, value in variables.items() if value is not None}
    return warm_python.run([*COMMAND, *arguments], env=variables, capture_output=True, timeout=300, **options)


@pytest.fixture(scope="module")
def media(tmp_path_factory, photos, family):
    """What the tables below name."""
    folder = tmp_path_factory.mktemp("media")
    photos[0].save(folder / "photo.png")
    return {"model": family.variant, "base": family.base, "at": folder, "photo": folder / "photo.png"}


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
    # 0: it was done, which a loaded machine may make of any moment. At the very end Python gives signals back to the
    # system: the process then dies of it, which a shell calls 130 and 143 too.
    assert process.returncode in (SIGNALS[sent], -sent, 0)
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
import sys, divprune_hf_console, signal
from divprune_hf.cli import inference_commands
def ask(options):
    {body}
inference_commands.run_ask = ask
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
    result = warm_python.run(command, env={**os.environ, **QUIET}, capture_output=True, timeout=300)
    assert result.returncode == SIGNALS[getattr(signal, name)]
    assert b"Traceback" not in result.stderr


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


def test_a_full_disk_is_one_line(media):
    with open("/dev/full", "w") as full:
        command = [*COMMAND, "ask", str(media["model"]), str(media["photo"]), "w1"]
        environment = {**os.environ, **QUIET}
        result = warm_python.run(command, env=environment, stdout=full, stderr=subprocess.PIPE, timeout=300)
    lines = result.stderr.decode().splitlines()
    assert result.returncode == 2 and "No space left" in lines[-1] and "Traceback" not in result.stderr.decode()


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
