"""The load of `bench MODEL --engine vllm`: what clients send and what they count, against a server of our own."""

import json
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from divprune_hf.benchmarks.bench_serving import percentile
from divprune_hf.benchmarks.random_variant import write_random_variant
from divprune_hf.benchmarks.serving_load import Load, answer_all, request_bodies
from divprune_hf.benchmarks.shapes import LLAMA_TINY, SHAPES, VIT_SMALL, Shape
from divprune_hf.common.pocket_llava import pocket_llava
from tests.helpers.commands import run_command


@dataclass
class Answers:
    new_tokens: int = 2
    shape: str | None = None


class Handler(BaseHTTPRequestHandler):
    """Streams an answer of two chunks and the usage, 20 ms after the request; fails where it is told to."""

    def do_POST(self):
        server = self.server
        with server.lock:
            server.now += 1
            server.most = max(server.most, server.now)
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            server.bodies.append(body)
            fails = server.fails_at == len(server.bodies)
        time.sleep(0.02)
        self.send_response(400 if fails else 200)
        self.end_headers()
        if fails:
            self.wfile.write(b'{"error": "no room"}')
        else:
            for chunk in ({"choices": [{}]}, {"choices": [{}]}, {"choices": [], "usage": {"prompt_tokens": 61}}):
                self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
            self.wfile.write(b"data: [DONE]\n\n")
        with server.lock:
            server.now -= 1

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server():
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as made:
        made.lock, made.bodies, made.now, made.most, made.fails_at = threading.Lock(), [], 0, 0, None
        threading.Thread(target=made.serve_forever, daemon=True).start()
        yield made
        made.shutdown()


@pytest.mark.parametrize("clients", [1, 3])
def test_each_client_waits_for_its_answer(server, clients):
    bodies = request_bodies(7, 0.25, Answers(), seed=1)
    load = answer_all(server.server_address, bodies, clients)
    assert server.most == clients and len(server.bodies) == 7
    assert len(load.first_tokens) == 7 and min(load.first_tokens) > 0.02 and load.prompt_tokens == 61
    assert load.seconds >= 7 * 0.02 / clients and load.requests_per_second == pytest.approx(7 / load.seconds)


def test_every_request_has_a_new_picture_and_the_cells_budget():
    bodies = [json.loads(body) for seed in (0, 1) for body in request_bodies(5, 0.25, Answers(), seed)]
    pictures = [body["messages"][0]["content"][0]["image_url"]["url"] for body in bodies]
    assert len(set(pictures)) == 10 and all(url.startswith("data:image/png;base64,") for url in pictures)
    assert all(body["mm_processor_kwargs"] == {"retention_ratio": 0.25} for body in bodies)
    assert all(body["max_tokens"] == 2 and "allowed_token_ids" not in body for body in bodies)
    assert "allowed_token_ids" in json.loads(request_bodies(1, 1.0, Answers(shape="tiny-cpu"), 0)[0])


def test_a_refused_request_ends_the_measurement(server):
    server.fails_at = 3
    with pytest.raises(OSError, match='the server answered 400: {"error": "no room"}'):
        answer_all(server.server_address, request_bodies(5, 0.5, Answers(), 0), 2)


def test_goodput_counts_what_came_in_time():
    load = Load(seconds=2.0, first_tokens=[0.1, 0.5, 0.9, 1.1], prompt_tokens=9)
    assert (load.requests_per_second, load.goodput(0.9), load.goodput(0.05)) == (2.0, 1.5, 0.0)
    assert [percentile(list(range(1, 101)), percent) for percent in (1, 50, 99)] == [1, 50, 99]
    assert percentile([3.0], 99) == 3.0 and percentile([1.0, 2.0], 99) == 2.0


def test_a_random_variant_has_the_sizes_of_its_shape_and_answers(tmp_path, monkeypatch):
    vision = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    small = Shape("llava", {**VIT_SMALL, **vision}, {**LLAMA_TINY, **text, "num_key_value_heads": 2})
    monkeypatch.setitem(SHAPES, "tiny-cpu", small)
    folder = write_random_variant("tiny-cpu", tmp_path)
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    processor = AutoProcessor.from_pretrained(folder)
    picture = Image.open(pocket_llava() / "examples" / "scene_00.png")
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Is there a bag?"}]}]
    prompt = processor.apply_chat_template(messages, add_generation_prompt=True)
    inputs = processor(images=picture, text=prompt, return_tensors="pt")
    assert processor.count_image_tokens(inputs) == [576] and inputs["num_image_tokens_kept"].tolist() == [56]
    assert model.generate(**inputs, max_new_tokens=2).shape[1] > inputs["input_ids"].shape[1]
    with pytest.raises(ValueError, match="of llava_next, expected one of llava"):
        write_random_variant("llava-1.6-7b", tmp_path)


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is installed")
def test_a_missing_vllm_is_named(tmp_path):
    result = run_command("bench", "--shape", "pocket", "--engine", "vllm")
    assert result.returncode == 2 and "bench --engine vllm needs vLLM: pip install vllm" in result.stderr
