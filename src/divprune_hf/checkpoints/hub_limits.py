"""Limits of every request to the Hub: none takes for ever, fills the disk or carries the token elsewhere.

huggingface_hub sends most requests without a time limit, follows pages without counting them, and waits as long as a
server asks. Its clients (httpx in the newer versions, requests in the older) are made by a factory that a program may
set: while `limited_clients` is open, what the factory makes is bounded.
"""

import contextvars
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from huggingface_hub import constants
from huggingface_hub.utils import _http

from divprune_hf.common.printable import printable


@dataclass(frozen=True)
class Limits:
    """Bounds of a request. docs/security.md says them.

    Attributes:
        seconds: for an answer; what is sent or downloaded beyond that has to move at `bytes_per_second`.
        bytes_per_second: the slowest transfer that is waited for.
        answer_bytes: the longest answer, but for files whose size is known.
        wait_seconds: the longest wait that a server may ask for (Retry-After).
        pages: the most pages of lists in one command.
    """

    seconds: float = 120
    bytes_per_second: int = 10_000
    answer_bytes: int = 2**27
    wait_seconds: int = 60
    pages: int = 100


class HubTrouble(ValueError):
    """An answer of the Hub that cannot be used, said in one sentence."""


class Conversation:
    """Record of what has been asked since the clients were limited, and of what came last."""

    def __init__(self) -> None:
        self.depth = 0
        self.pages = 0
        self.last: Any = None
        self.restore: Callable[[], None] = lambda: None


LIMITS = Limits()
CONVERSATION = Conversation()
LOCK = threading.RLock()
EXPECTED_BYTES: contextvars.ContextVar[int] = contextvars.ContextVar("expected_bytes", default=0)


@contextmanager
def limited_clients() -> Iterator[None]:
    """Have huggingface_hub speak through limited clients; those of the whole process, until the last user is done."""
    with LOCK:
        if CONVERSATION.depth == 0:
            CONVERSATION.pages, CONVERSATION.last = 0, None
            CONVERSATION.restore = install()
        CONVERSATION.depth += 1
    try:
        yield
    finally:
        with LOCK:
            CONVERSATION.depth -= 1
            if CONVERSATION.depth == 0:
                CONVERSATION.restore()


def install() -> Callable[[], None]:
    """Wrap the factory of clients; return what puts the old one back."""
    newer = hasattr(_http, "set_client_factory")
    set_factory = _http.set_client_factory if newer else _http.configure_http_backend
    previous = _http._GLOBAL_CLIENT_FACTORY if newer else _http._GLOBAL_BACKEND_FACTORY  # no version tells it otherwise
    set_factory(lambda: limited(previous()))
    return lambda: set_factory(previous)


def limited(client: Any) -> Any:
    """Bound what an `httpx.Client` or a `requests.Session` sends and receives."""
    send = client.send

    def limited_send(request: Any, **kwargs: Any) -> Any:
        keep_token_at_home(request)
        seconds = allowed_seconds(int(request.headers.get("Content-Length") or 0))
        bound_reads(request, kwargs, seconds)
        response = within(seconds, partial(send, request, **kwargs), request)
        CONVERSATION.last = response
        check_pages(response)
        check_wait(response)
        return response

    client.send = limited_send
    if hasattr(client, "event_hooks"):
        hooks = client.event_hooks
        client.event_hooks = {**hooks, "response": [*hooks.get("response", []), bound_body]}
    else:
        client.hooks["response"].append(bound_body)
    return client


def allowed_seconds(size: int) -> float:
    return LIMITS.seconds + size / LIMITS.bytes_per_second


def keep_token_at_home(request: Any) -> None:
    """Drop the token from a request to another host than the Hub's, whoever named that host."""
    if origin(str(request.url)) != origin(constants.ENDPOINT):
        request.headers.pop("Authorization", None)


def origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def bound_reads(request: Any, kwargs: dict, seconds: float) -> None:
    """End a silent connection too where the library sets no time limit, so that its thread does not stay."""
    seconds += 5  # the limit of the whole answer comes first
    if not hasattr(request, "extensions"):
        if kwargs.get("timeout") is None:
            kwargs["timeout"] = seconds
        return
    given = request.extensions.get("timeout") or {}
    parts = {part: given.get(part) or seconds for part in ("connect", "read", "write", "pool")}
    request.extensions = {**request.extensions, "timeout": parts}


def within(seconds: float, call: Callable[[], Any], request: Any) -> Any:
    """Run a call, and give up on it after a time: its thread is left behind, and ends by itself."""
    done: Future = Future()
    context = contextvars.copy_context()

    def work() -> None:
        try:
            done.set_result(context.run(call))
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    if not wait([done], timeout=seconds).done:
        raise HubTrouble(f"{said(request)} had no complete answer within {seconds:.0f} s: run this again later.")
    return done.result()


def check_pages(response: Any) -> None:
    CONVERSATION.pages += "next" in response.links
    if CONVERSATION.pages > LIMITS.pages:
        raise HubTrouble(
            f"{said(response.request)} was answered with a page that names a next one, more than {LIMITS.pages} times: "
            "expected a repo with fewer files."
        )


def check_wait(response: Any) -> None:
    """Refuse to wait as long as a server likes."""
    if response.status_code < 400:
        return
    asked = [response.headers.get("Retry-After") or "", *re.findall(r"t\s*=\s*(\d+)", limits_of_rate(response))]
    waits = [int(seconds) for seconds in asked if re.fullmatch(r"\d{1,15}", seconds.strip())]
    if waits and max(waits) > LIMITS.wait_seconds:
        raise HubTrouble(
            f"{said(response.request)} was answered with {response.status_code} and asks to wait {max(waits)} s, more "
            f"than {LIMITS.wait_seconds} s: run this again after that."
        )


def limits_of_rate(response: Any) -> str:
    return (response.headers.get("ratelimit") or "") if response.status_code == 429 else ""


def bound_body(response: Any, *_: Any, **__: Any) -> None:
    """Bound the bytes of an answer, and the time that they take."""
    expected = EXPECTED_BYTES.get()
    most = max(LIMITS.answer_bytes, expected)
    seconds = allowed_seconds(expected)
    end = time.monotonic() + seconds

    def bounded(pieces: Iterator[bytes]) -> Iterator[bytes]:
        size = 0
        for piece in pieces:
            size += len(piece)
            if size > most:
                raise HubTrouble(f"{said(response.request)} was answered with more than {most} bytes: no end is seen.")
            if time.monotonic() > end:
                raise HubTrouble(
                    f"{said(response.request)} had no complete answer within {seconds:.0f} s: run this again later."
                )
            yield piece

    if hasattr(response, "iter_raw"):  # httpx: the time is looked at where pieces arrive, the size where they are whole
        raw, whole = response.iter_raw, response.iter_bytes
        response.iter_raw = lambda *args, **kwargs: bounded(raw(*args, **kwargs))
        response.iter_bytes = lambda *args, **kwargs: bounded(whole(*args, **kwargs))
    else:
        response.raw.stream = lambda amount, decode_content=None: bounded(arriving(response.raw, decode_content))


def arriving(raw: Any, decode_content: bool | None) -> Iterator[bytes]:
    """The body of a urllib3 response as it arrives: a read of a whole chunk would outlast a slow drip."""
    while piece := raw.read1(2**16, decode_content=decode_content):
        yield piece


def said(request: Any) -> str:
    """A request for people: its method and address, without what follows a question mark."""
    return printable(f"{request.method} {str(request.url).split('?')[0]}")
