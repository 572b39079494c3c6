"""Limits of every request to the Hub: it ends in time, does not fill the disk, and sends the token to no other host.

huggingface_hub sends most requests without a time limit, follows pages without counting them, and waits as long as a
server asks. A factory makes its clients (httpx in newer versions, requests in older ones), and a program may replace
it. While `limited_clients` is open, every client that it makes has these limits.
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
    """Bounds of a request, as docs/security.md lists them.

    Attributes:
        seconds: the time for an answer. A body adds its size divided by `bytes_per_second`.
        bytes_per_second: the slowest transfer that is accepted.
        answer_bytes: the longest answer, except for a file whose size is known.
        wait_seconds: the longest wait that a server may ask for (Retry-After).
        pages: the largest number of list pages in one command.
    """

    seconds: float = 120
    bytes_per_second: int = 10_000
    answer_bytes: int = 2**27
    wait_seconds: int = 60
    pages: int = 100


class HubTrouble(ValueError):
    """An answer of the Hub that cannot be used, described in one sentence."""


class Conversation:
    """State of the limited clients: users, pages so far, and the last answer, for error messages."""

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
    """Give the whole process limited clients until the last user of this context is done."""
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
    """Replace the factory of clients by a limiting one; return a function that restores the old one."""
    http: Any = _http  # each version has one of the two pairs of names; the current factory has no public name
    newer = hasattr(http, "set_client_factory")
    set_factory = http.set_client_factory if newer else http.configure_http_backend
    previous = http._GLOBAL_CLIENT_FACTORY if newer else http._GLOBAL_BACKEND_FACTORY
    set_factory(lambda: limited(previous()))
    return lambda: set_factory(previous)


def limited(client: Any) -> Any:
    """Put the limits on an `httpx.Client` or a `requests.Session`, and return it."""
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
    """Return the time for a body of `size` bytes, in seconds."""
    return LIMITS.seconds + size / LIMITS.bytes_per_second


def keep_token_at_home(request: Any) -> None:
    """Drop the token from a request to any host other than the Hub."""
    if origin(str(request.url)) != origin(constants.ENDPOINT):
        request.headers.pop("Authorization", None)


def origin(url: str) -> tuple[str, str | None, int | None]:
    """Return the scheme, host and port of an address."""
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def bound_reads(request: Any, kwargs: dict, seconds: float) -> None:
    """Set a read timeout where the library sets none, so that the thread of a silent connection ends."""
    seconds += 5  # the limit of the whole answer comes first
    if not hasattr(request, "extensions"):
        if kwargs.get("timeout") is None:
            kwargs["timeout"] = seconds
        return
    given = request.extensions.get("timeout") or {}
    parts = {part: given.get(part) or seconds for part in ("connect", "read", "write", "pool")}
    request.extensions = {**request.extensions, "timeout": parts}


def within(seconds: float, call: Callable[[], Any], request: Any) -> Any:
    """Return the result of a call; raise `HubTrouble` after `seconds`. The thread of the call then ends by itself."""
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
    """Count an answer that names a next page, and refuse more than `LIMITS.pages` of them."""
    CONVERSATION.pages += "next" in response.links
    if CONVERSATION.pages > LIMITS.pages:
        raise HubTrouble(
            f"{said(response.request)} was answered with a page that names a next one, more than {LIMITS.pages} times: "
            "expected a repo with fewer files."
        )


def check_wait(response: Any) -> None:
    """Refuse an answer that asks to wait more than `LIMITS.wait_seconds`."""
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
    """Return the header that says when a rate limit ends, or an empty text."""
    return (response.headers.get("ratelimit") or "") if response.status_code == 429 else ""


def bound_body(response: Any, *_: Any, **__: Any) -> None:
    """Bound the bytes of an answer and the time that they take."""
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

    if hasattr(response, "iter_raw"):  # httpx: raw pieces as they arrive, and decoded ones, whose size counts
        raw, whole = response.iter_raw, response.iter_bytes
        response.iter_raw = lambda *args, **kwargs: bounded(raw(*args, **kwargs))
        response.iter_bytes = lambda *args, **kwargs: bounded(whole(*args, **kwargs))
    else:
        response.raw.stream = lambda amount, decode_content=None: bounded(arriving(response.raw, decode_content))


def arriving(raw: Any, decode_content: bool | None) -> Iterator[bytes]:
    """Yield the body of a urllib3 response as it arrives; reading whole chunks would block on a slow server."""
    while piece := raw.read1(2**16, decode_content=decode_content):
        yield piece


def said(request: Any) -> str:
    """Return the method and address of a request for a message, without the query."""
    return printable(f"{request.method} {str(request.url).split('?')[0]}")
