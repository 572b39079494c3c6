"""`divprune-hf serve`: a real `transformers serve` answers about pictures as `ask` does, from as few tokens."""

import base64
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from io import BytesIO

import pytest
from PIL import Image
from transformers.models.auto import modeling_auto

from divprune_hf import convert_checkpoint
from divprune_hf.cli.parser import build_parser
from divprune_hf.common.pocket_llava import pocket_llava
from divprune_hf.engines import transformers_serve
from divprune_hf.inference.ask import ask
from divprune_hf.inference.loading import load_pruned
from tests.helpers.commands import run_command


HAS_SERVE = hasattr(modeling_auto, transformers_serve.NAMES_OF_MODELS)
PACKAGES = all(importlib.util.find_spec(name) for name in ("fastapi", "uvicorn", "openai", "pydantic"))
served = pytest.mark.skipif(not (HAS_SERVE and PACKAGES), reason="transformers[serving] of 5.10 or later")
QUESTIONS = ("Is there a bag?", "Is there a sneaker?", "How many objects are there?", "What is in the top left?")


@pytest.fixture(scope="module")
def variant(tmp_path_factory):
    return convert_checkpoint(pocket_llava(), tmp_path_factory.mktemp("serve") / "variant", {"num_tokens": 40})


@pytest.fixture(scope="module")
def scenes():
    return [Image.open(path).convert("RGB") for path in sorted((pocket_llava() / "examples").glob("scene_*.png"))[:3]]


@contextmanager
def server(*arguments):
    """Run `divprune-hf serve` until its pictures are asked about; yields the address and the process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "divprune_hf.cli", "serve", *map(str, arguments)]
    command += ["--", "--device", "cpu", "--port", str(port), "--host", "127.0.0.1"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    try:
        deadline = time.monotonic() + 120
        while True:
            assert process.poll() is None and time.monotonic() < deadline, process.stderr.read()
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                    break
            except OSError:
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}", process
    finally:
        process.kill()
        process.communicate()


def chat(address, pictures, question, **fields):
    """Return status, answer and length of the prompt of a chat request with pictures in data: URLs."""
    content = []
    for picture in pictures:
        png = BytesIO()
        picture.save(png, "png")
        url = f"data:image/png;base64,{base64.b64encode(png.getvalue()).decode()}"
        content.append({"type": "image_url", "image_url": {"url": url}})
    messages = [{"role": "user", "content": [*content, {"type": "text", "text": question}]}]
    body = json.dumps({"messages": messages, "max_tokens": 16, "temperature": 0, **fields}).encode()
    request = urllib.request.Request(f"{address}/v1/chat/completions", body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=120) as response:
            answer = json.load(response)
            return 200, answer["choices"][0]["message"]["content"].strip(), answer["usage"]["prompt_tokens"]
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(), None


@served
@pytest.mark.parametrize(
    ("arguments", "settings"),
    [
        ((), {"num_tokens": 40}),
        (("--num-tokens", 13, "--positions", "original"), {"num_tokens": 13, "positions": "original"}),
        (("--retention-ratio", "1.0"), {"retention_ratio": 1.0}),
    ],
    ids=str,
)
def test_answers_and_prompts_are_those_of_ask(arguments, settings, variant, scenes):
    model, processor = load_pruned(pocket_llava(), device="cpu", **settings)
    with server(variant, *arguments) as (address, process):
        for picture in scenes:
            for question in QUESTIONS:
                expected = ask(model, processor, picture, question, max_new_tokens=16)
                assert chat(address, [picture], question) == (200, expected.text, expected.num_prompt_tokens)
        assert expected.num_kept == {1.0: 256}.get(settings.get("retention_ratio"), settings.get("num_tokens"))
        _, _, one = chat(address, scenes[:1], QUESTIONS[0])
        status, _, three = chat(address, scenes, QUESTIONS[0])
        assert status == 200 and three - one >= 2 * expected.num_kept
        if not arguments:
            assert chat(address, scenes[:1], QUESTIONS[0], model=str(variant))[0] == 200
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
        assert process.returncode == 143 and "Traceback" not in said
        named = [line.split()[-3].rstrip(",") for line in said.splitlines() if line.startswith("divprune-hf: requests")]
        assert len(named) == bool(arguments) and not any(os.path.exists(os.path.dirname(name)) for name in named)


@pytest.mark.parametrize(
    ("model", "flags", "message"),
    [
        ("base", (), "is a stock base, expected a variant: divprune-hf convert"),
        ("variant", ("--num-tokens", "0"), "Got num_tokens=0"),
        ("variant", ("--video-num-tokens", "5"), "Got video_num_tokens for a model that takes no videos"),
        ("nowhere", (), "nowhere"),
    ],
)
def test_what_cannot_be_served_is_refused_before_a_server_starts(model, flags, message, variant, monkeypatch):
    monkeypatch.setattr(transformers_serve, "check_can_serve", lambda: None)
    monkeypatch.setattr(transformers_serve, "run_transformers_serve", lambda *given: pytest.fail("a server starts"))
    folder = {"base": pocket_llava(), "variant": variant}.get(model, model)
    result = run_command("serve", folder, *flags)
    assert result.returncode == 2 and message in result.stderr and result.stderr.count("\n") == 1


def test_a_release_that_serves_no_models_by_name_is_named(variant, monkeypatch):
    monkeypatch.delattr(modeling_auto, transformers_serve.NAMES_OF_MODELS, raising=False)
    result = run_command("serve", variant)
    assert result.returncode == 2 and "install transformers 5.10 or later" in result.stderr


@pytest.mark.skipif(not HAS_SERVE, reason="the release is refused first")
def test_missing_packages_are_named(variant, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "uvicorn" else found(name) or name)
    result = run_command("serve", variant)
    assert result.returncode == 2
    assert "divprune-hf serve needs uvicorn: pip install 'divprune-hf[serve]'" in result.stderr


def test_other_settings_leave_the_variant_as_it_is(variant, tmp_path):
    before = {path.name: path.read_bytes() for path in variant.iterdir()}
    served = transformers_serve.with_settings(variant, tmp_path / "out" / "variant", {"retention_ratio": 0.5}, False)
    assert {path.name: path.read_bytes() for path in variant.iterdir()} == before
    for name, content in before.items():
        assert (served / name).is_symlink() == (name not in transformers_serve.EDITED)
        if name in transformers_serve.EDITED:
            other = json.loads((served / name).read_text())
            block = other["divprune_config"]
            assert block["retention_ratio"] == 0.5 and block.get("num_tokens") is None
            assert {**other, "divprune_config": None} == {**json.loads(content), "divprune_config": None}
        else:
            assert (served / name).read_bytes() == content


@pytest.mark.parametrize(
    ("words", "flags", "passed_on"),
    [
        (["M"], {}, []),
        (["M", "--num-tokens", "5"], {"num_tokens": 5}, []),
        (["--num-tokens", "5", "M", "--", "--port", "8001"], {"num_tokens": 5}, ["--port", "8001"]),
        (["M", "--num-tokens", "5", "--", "--help", "--", "x"], {"num_tokens": 5}, ["--help", "--", "x"]),
        (["M", "--"], {}, []),
    ],
)
def test_what_follows_two_dashes_is_passed_on(words, flags, passed_on):
    options = build_parser().parse_args(["serve", *words])
    assert options.passed_on == passed_on and options.model == "M"
    assert {name: value for name, value in vars(options).items() if name in flags} == flags


def test_arguments_of_the_other_command_need_two_dashes(capsys):
    with pytest.raises(SystemExit):
        build_parser().parse_args(["serve", "M", "--port", "8001"])
    assert "unrecognized arguments: --port 8001" in capsys.readouterr().err
