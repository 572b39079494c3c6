"""A griffe extension for docs/api.md: types of parameters come from signatures, not from the text of docstrings.

Docstrings write `name (`type`, *optional*): text`, whose type the page would show as raw Markdown. A type that gives a
shape says more than a signature can: it moves in front of the text.
"""

import re
from typing import Any

import griffe


TYPED = re.compile(r"^(?P<names> +\w+(?:, \w+)*) \((?P<type>.*?)\): ", re.MULTILINE)


def without_type(match: re.Match[str]) -> str:
    """Return a parameter's name with the start of its text."""
    shape = f"{match['type']}: " if " of shape " in match["type"] else ""
    return f"{match['names']}: {shape}"


class TypesOfSignatures(griffe.Extension):
    """Take types out of the docstrings of functions and classes."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rewrite one docstring."""
        if obj.docstring is not None:
            obj.docstring.value = TYPED.sub(without_type, obj.docstring.value)
