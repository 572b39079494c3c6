"""Engines of vLLM in processes of their own, requests to them, and what transformers answers to the same requests."""

import base64
import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor


ROOT = Path(__file__).parents[2]
MAX_TOKENS = 6
# The engine's caches and threads stay small; TP needs the latter.
ENVIRONMENT = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_HOST_IP": "127.0.0.1", "VLLM_NO_USAGE_STATS": "1"}
START_SECONDS = 240


@dataclass(frozen=True)
class Request:
    """A question about pictures (paths), and the budget of this request."""

    text: str
    pictures: tuple = ()
    budget: dict = field(default_factory=dict)

    @property
    def messages(self):
        """The question as chat messages, with pictures as data: URLs."""
        return [{"role": "user", "content": [*map(picture_part, self.pictures), {"type": "text", "text": self.text}]}]


def picture_part(path):
    """Return a picture as a part of a message of OpenAI's API."""
    content = base64.b64encode(Path(path).read_bytes()).decode()
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{content}"}}


def environment(tmp_path, **variables):
    """The environment of an engine's process."""
    ours = {**ENVIRONMENT, "HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    python_path = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    return {**os.environ, **ours, "PYTHONPATH": python_path, **variables}


def run_jobs(jobs, tmp_path, **variables):
    """Run offline engines (see `vllm_jobs`); return what each answered, and all that the process printed."""
    tmp_path.mkdir(exist_ok=True)
    (tmp_path / "jobs.json").write_text(json.dumps(jobs, default=vars))
    command = [sys.executable, "-m", "tests.helpers.vllm_jobs", tmp_path / "jobs.json", tmp_path / "answers.json"]
    with (tmp_path / "log.txt").open("w") as log:
        result = subprocess.run(
            command, cwd=tmp_path, env=environment(tmp_path, **variables), stdout=log, stderr=log, timeout=600
        )
    printed = (tmp_path / "log.txt").read_text(errors="replace")
    assert result.returncode == 0, printed[-4000:]
    return json.loads((tmp_path / "answers.json").read_text()), printed


@dataclass(frozen=True)
class Server:
    """An OpenAI server on the loopback interface."""

    url: str

    def post(self, path, body):
        """Return the status and the decoded answer of a request; `body` may be a dict, or text as it is."""
        data = (body if isinstance(body, str) else json.dumps(body)).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=120) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())

    def chat(self, request, **body):
        """Return the status and the answer to a chat request."""
        if request.budget:
            body = {"mm_processor_kwargs": request.budget, **body}
        fields = {"temperature": 0, "max_tokens": MAX_TOKENS, "return_token_ids": True, "add_special_tokens": True}
        return self.post("/v1/chat/completions", {"messages": request.messages, **fields, **body})

    def answer(self, request):
        """Return the prompt's length and the tokens of an answer."""
        status, answer = self.chat(request)
        assert status == 200, answer
        return {"prompt": answer["usage"]["prompt_tokens"], "tokens": answer["choices"][0]["token_ids"]}


@contextlib.contextmanager
def running_server(command, tmp_path):
    """Start a server by a command without its port, and wait until it answers; yields a `Server`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [*command, "--host", "127.0.0.1", "--port", str(port)]
    with (tmp_path / "server.log").open("w") as log:
        process = subprocess.Popen(command, cwd=tmp_path, env=environment(tmp_path), stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + START_SECONDS
        while True:
            said = (tmp_path / "server.log").read_text()
            assert process.poll() is None and time.monotonic() < deadline, said[-4000:]
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5)
                break
            time.sleep(1)
        yield Server(f"http://127.0.0.1:{port}")
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=30)
        process.kill()


class Reference:
    """transformers' greedy answers of a variant."""

    def __init__(self, folder):
        self.model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
        self.processor = AutoProcessor.from_pretrained(folder)

    def answer(self, request, as_chat=False):
        """Return the prompt's length and the tokens of an answer, to a text or to chat messages."""
        text, pictures = request.text, [Image.open(path) for path in request.pictures]
        if as_chat:
            content = [*[{"type": "image"} for _ in pictures], {"type": "text", "text": text}]
            text = self.processor.apply_chat_template(
                [{"role": "user", "content": content}], add_generation_prompt=True
            )
        inputs = self.processor(images=pictures or None, text=text, return_tensors="pt", **request.budget)
        tokens = self.model.generate(**inputs, max_new_tokens=MAX_TOKENS, do_sample=False)
        length = inputs["input_ids"].shape[1]
        return {"prompt": length, "tokens": tokens[0, length:].tolist()}
