"""Errors of the Hub, said in one sentence that tells what to do and never holds a token."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub import get_token
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError


TOKEN = re.compile(r"\b(?:hf|api_org)_[A-Za-z0-9]{16,}")  # access tokens of the Hub
BEARER = re.compile(r"(?<=Bearer )[^\s'\"]+")  # what an HTTP library may print of a request


def redact(text: str) -> str:
    """A text with every token in it blotted out."""
    return BEARER.sub("***", without_tokens(text))


def without_tokens(text: str) -> str:
    """A text without the token in use and without anything that looks like one."""
    token = get_token()
    return TOKEN.sub("***", text.replace(token, "***") if token else text)


@contextmanager
def explained(subject: str) -> Iterator[None]:
    """Turn errors that the Hub answers into a `ValueError` about `subject`."""
    try:
        yield
    except HfHubHTTPError as error:
        raise ValueError(explanation(error, subject)) from None


def explanation(error: HfHubHTTPError, subject: str) -> str:
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
    if status == 412:
        return f"{subject} has changed meanwhile (412): someone else pushed to it. Nothing was changed; run this again."
    return redact(f"The Hub answered with an error for {subject}: {' '.join(str(error).split())}")
