"""Errors of the Hub as one sentence that says what to do and never holds a token."""

import errno
import json
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from huggingface_hub import constants, get_token
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from divprune_hf.checkpoints.hub_limits import CONVERSATION, HubTrouble, limited_clients, said
from divprune_hf.common.printable import one_line, printable


TOKEN = re.compile(r"\b(?:hf|api_org)_[A-Za-z0-9]{16,}")  # access tokens of the Hub
BEARER = re.compile(r"(?<=Bearer )[^\s'\"]+")  # HTTP libraries may print this header of a request
NO_ROOM = {errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS}  # of this machine
MORE = re.compile(r"For more information check: \S+")  # a page about status codes
# Raised by code that reads an unexpected answer; their messages are about that code, not about the answer.
NOT_UNDERSTOOD = (json.JSONDecodeError, TypeError, LookupError, AttributeError, RecursionError)
LONGEST_QUOTE = 300  # characters of what a server says


def redact(text: str) -> str:
    """Return a text with every token and every bearer header replaced by ***."""
    return BEARER.sub("***", without_tokens(text))


def without_tokens(text: str) -> str:
    """Return a text with the token in use, and whatever looks like a token, replaced by ***."""
    token = get_token()
    return TOKEN.sub("***", text.replace(token, "***") if token else text)


@contextmanager
def explained(subject: str) -> Iterator[None]:
    """Limit what is asked of the Hub about `subject`, and turn every error of its answers into a `ValueError`.

    Errors of this machine, such as a full disk, stay as they are.
    """
    with limited_clients(), guarded_output():
        try:
            yield
        except HubTrouble as error:
            raise ValueError(redact(f"The Hub does not answer as it should for {subject}: {error}")) from None
        except HfHubHTTPError as error:
            raise ValueError(explanation(error, subject)) from None
        except Exception as error:
            if not comes_from_client(error):
                raise
            raise ValueError(explanation_of_others(error, subject)) from None


def comes_from_client(error: BaseException) -> bool:
    """Tell whether an error was raised inside huggingface_hub and is not one of this machine."""
    if isinstance(error, HFValidationError) or getattr(error, "errno", None) in NO_ROOM:
        return False
    trace = error.__traceback__
    while trace is not None:
        if str(trace.tb_frame.f_globals.get("__name__")).startswith("huggingface_hub."):
            return True
        trace = trace.tb_next
    return False


def explanation(error: HfHubHTTPError, subject: str) -> str:
    """Return one sentence about an answer with an error status."""
    status = error.response.status_code if error.response is not None else None
    if isinstance(error, GatedRepoError):
        return f"{subject} is gated ({status}): ask for access on its page, and log in (hf auth login)."
    if isinstance(error, RevisionNotFoundError):
        return f"{subject} has no such revision ({status}): look the branch, tag or commit up on its page."
    if isinstance(error, RepositoryNotFoundError):
        return (
            f"{subject} was not found on the Hub ({status}): check the id. If it is private or gated, log in (hf auth "
            "login) with a token that may read it."
        )
    if status == 401:
        return f"The Hub refused the token (401) for {subject}: log in again (hf auth login, or HF_TOKEN)."
    if status == 403:
        return f"The token may not do that (403) for {subject}: it needs the role write there."
    if status in (409, 412):
        return (
            f"{subject} has changed meanwhile ({status}): someone else pushed to it, and theirs was not touched. Look "
            "at it, and run this again."
        )
    advice = "Run this again later" if status == 429 or (status or 0) >= 500 else "Check the names and HF_ENDPOINT"
    return redact(f"The Hub answered with an error for {subject}: {quoted(error)}. {advice}.")


def explanation_of_others(error: BaseException, subject: str) -> str:
    """Return one sentence about an answer that huggingface_hub could not use, or about a missing answer."""
    causes = chain(error)
    for cause in causes:
        if isinstance(cause, HubTrouble):
            return redact(f"The Hub does not answer as it should for {subject}: {cause}")
        if isinstance(cause, HfHubHTTPError):
            return explanation(cause, subject)
    root = causes[-1]
    came = last_answer() if isinstance(root, NOT_UNDERSTOOD) else ""
    return redact(
        f"The Hub ({constants.ENDPOINT}) does not answer as it should for {subject}: "
        f"{came or f'{type(root).__name__}: {quoted(root)}'}. Check the network and HF_ENDPOINT, and run this again."
    )


def chain(error: BaseException) -> list[BaseException]:
    """Return an error followed by its causes, the direct one first."""
    found = [error]
    while (cause := found[-1].__cause__) is not None and cause not in found:
        found.append(cause)
    return found


def last_answer() -> str:
    """Describe the last answer: its request, status, content type and first characters."""
    answer: Any = CONVERSATION.last
    if answer is None:
        return ""
    try:
        begins = f"that begins with {answer.text[:60]!r}"
    except Exception:  # the body was read as a stream
        begins = "that is something else"
    kind = printable(answer.headers.get("Content-Type") or "content of no type")[:80]
    return f"{said(answer.request)} was answered with {answer.status_code} and {kind} {begins}, expected a Hub's answer"


def quoted(error: BaseException) -> str:
    """Return the message of an error on one line, cut after `LONGEST_QUOTE` characters."""
    words = one_line(MORE.sub("", str(error))).rstrip(".") or "no message"
    return words if len(words) <= LONGEST_QUOTE else f"{words[:LONGEST_QUOTE]}..."


class GuardedFormatter(logging.Formatter):
    """Format a record as `inner` does, without tokens and control characters."""

    def __init__(self, inner: logging.Formatter | None) -> None:
        super().__init__()
        self.inner = inner or logging.Formatter()

    def format(self, record: logging.LogRecord) -> str:
        """Return the formatted record, harmless for a terminal."""
        return printable(redact(self.inner.format(record)))


@contextmanager
def guarded_output() -> Iterator[None]:
    """Remove tokens and control characters from the logs and warnings of huggingface_hub, which quote the server."""
    with ExitStack() as stack:
        for handler in logging.getLogger("huggingface_hub").handlers:
            stack.callback(handler.setFormatter, handler.formatter)
            handler.setFormatter(GuardedFormatter(handler.formatter))
        show = warnings.showwarning
        stack.callback(setattr, warnings, "showwarning", show)

        def show_guarded(message: Any, category: Any, *rest: Any, **kwargs: Any) -> None:
            show(category(printable(redact(str(message)))), category, *rest, **kwargs)

        warnings.showwarning = show_guarded
        yield
