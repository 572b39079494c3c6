"""Warnings that name a coming release and that our code causes: early notice of what will break.

transformers says so by `warnings.warn`, or by a logger, often once per process. Both are listened to from the moment
this module is imported, which has to be before `divprune_hf` is.
"""

import linecache
import logging
import re
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

import transformers  # noqa: F401  its loggers get `warning_once` here


COMING = re.compile(
    r"will be (removed|deprecated)|\b(from |until |in |version )?v?(5\.(2[5-9]|[3-9]\d)|[6-9]\.\d+)\b", re.I
)
OURS = (f"{Path(__file__).parents[2] / 'src'}/", "/transformers_modules/")
# Whose frames say nothing about who asked: libraries, and this file.
LIBRARIES = ("/site-packages/", "/dist-packages/", "/lib/python3", __file__)
# Lines that hand on what somebody else has given, and add nothing.
HANDS_ON = re.compile(
    r"super\(\)\.\w+\(\*\*inputs\)|(super\(\)|ProcessorMixin)\.__call__\((self, )?images, text, |method\(self, "
)


@dataclass(frozen=True)
class Removal:
    """A warning and the line of ours that caused it."""

    text: str
    place: str

    def __str__(self):
        return f"{self.place}: {self.text}"


seen: list[Removal] = []


def listen(text):
    """Note a warning that names a coming release, where the nearest frame that is not a library's is ours."""
    if not COMING.search(str(text)):
        return
    frame = sys._getframe(2)
    while frame is not None and is_passed_through(frame):
        frame = frame.f_back
    if frame is not None and any(part in frame.f_code.co_filename for part in OURS):
        seen.append(Removal(str(text).strip(), f"{frame.f_code.co_filename}:{frame.f_lineno}"))


def is_passed_through(frame):
    file = frame.f_code.co_filename
    return any(part in file for part in LIBRARIES) or bool(HANDS_ON.search(linecache.getline(file, frame.f_lineno)))


def listening(function, text_at):
    def call(*args, **kwargs):
        if len(args) > text_at:
            listen(args[text_at])
        if function is WARN:
            kwargs["stacklevel"] = kwargs.get("stacklevel", 1) + 1
        return function(*args, **kwargs)

    return call


WARN = warnings.warn
warnings.warn = listening(WARN, 0)
for name in ("warning", "warning_once", "warning_advice"):
    setattr(logging.Logger, name, listening(getattr(logging.Logger, name), 1))
