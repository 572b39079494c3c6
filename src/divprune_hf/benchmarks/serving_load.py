"""Requests to an OpenAI server, each about a new picture, from clients that wait for one answer at a time."""

import base64
import http.client
import io
import json
import random
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

from PIL import Image


QUESTION = "What is in the picture?"
SECONDS_PER_REQUEST = 300  # the longest wait for an answer
# With random weights most tokens of a large vocabulary have no text: answers are made of some that do.
TOKENS_WITH_TEXT = list(range(4, 60))


class Answers(Protocol):
    """The options of a run that its requests are made from."""

    @property
    def new_tokens(self) -> int:
        """Tokens of an answer."""

    @property
    def shape(self) -> str | None:
        """The shape of a model with random weights, if it is one."""


@dataclass(frozen=True)
class Load:
    """What some requests took.

    Args:
        seconds: from the first request to the last answer.
        first_tokens: of each request, the seconds to its first token.
        prompt_tokens: the length of a prompt.
    """

    seconds: float
    first_tokens: list[float]
    prompt_tokens: int

    @property
    def requests_per_second(self) -> float:
        """Answered requests per second."""
        return len(self.first_tokens) / self.seconds

    def goodput(self, longest: float) -> float:
        """Return the requests per second whose first token came within so many seconds."""
        return sum(first <= longest for first in self.first_tokens) / self.seconds


def request_bodies(number: int, budget: float, run: Answers, seed: int) -> list[bytes]:
    """Return the bodies of requests, each about another picture, made before the clock runs."""
    rng = random.Random(f"{seed} {budget}")
    bodies = []
    for _ in range(number):
        content = [
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{new_picture(rng)}"}},
            {"type": "text", "text": QUESTION},
        ]
        body: dict[str, Any] = {
            "messages": [{"role": "user", "content": content}],
            "mm_processor_kwargs": {"retention_ratio": budget},
            "add_special_tokens": True,
            "temperature": 0,
            "max_tokens": run.new_tokens,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if run.shape is not None:
            body["allowed_token_ids"] = TOKENS_WITH_TEXT
        bodies.append(json.dumps(body).encode())
    return bodies


def new_picture(rng: random.Random) -> str:
    """Return a picture of 24 x 24 coloured fields as PNG in base64."""
    picture = Image.frombytes("RGB", (24, 24), rng.randbytes(3 * 24 * 24)).resize((336, 336), Image.Resampling.NEAREST)
    content = io.BytesIO()
    picture.save(content, "png")
    return base64.b64encode(content.getvalue()).decode()


def answer_all(address: tuple[str, int], bodies: Sequence[bytes], num_clients: int) -> Load:
    """Send all requests, each client one at a time; return what they took.

    Raises:
        OSError: a request was refused or not answered.
    """
    lock, remaining = threading.Lock(), iter(bodies)
    first_tokens: list[float] = []
    lengths: set[int] = set()

    def client() -> None:
        while True:
            with lock:
                body = next(remaining, None)
            if body is None:
                return
            first, length = ask(address, body)
            with lock:
                first_tokens.append(first)
                lengths.add(length)

    started = time.perf_counter()
    with ThreadPoolExecutor(num_clients) as clients:
        for done in [clients.submit(client) for _ in range(num_clients)]:
            done.result()
    return Load(time.perf_counter() - started, first_tokens, max(lengths))


def ask(address: tuple[str, int], body: bytes) -> tuple[float, int]:
    """Ask once; return the seconds to the first token, and the length of the prompt."""
    connection = http.client.HTTPConnection(*address, timeout=SECONDS_PER_REQUEST)
    first, length = None, 0
    started = time.perf_counter()
    try:
        connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        if response.status != 200:
            raise OSError(f"the server answered {response.status}: {response.read()[:500].decode(errors='replace')}")
        for line in response:
            text = line.decode().removeprefix("data: ").strip()
            if not text or text == "[DONE]":
                continue
            chunk = json.loads(text)
            if "error" in chunk:
                raise OSError(f"the server answered {chunk['error']}")
            if first is None and chunk.get("choices"):
                first = time.perf_counter() - started
            if chunk.get("usage"):
                length = chunk["usage"]["prompt_tokens"]
    except http.client.HTTPException as error:
        raise OSError(f"the server broke off an answer: {error!r}") from error
    finally:
        connection.close()
    if first is None:
        raise OSError("the server ended an answer without a token")
    return first, length
