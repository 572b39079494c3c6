"""The table of variants and licences, `assets/variants.toml`, as objects."""

import functools
import sys
from dataclasses import dataclass, field
from importlib import resources
from typing import Any


if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@dataclass(frozen=True)
class Licence:
    """A licence of a base.

    Attributes:
        id: the Hub's id of the licence.
        title: its full name.
        link: its address, or a file of the base.
        name: its name in the metadata, where the id is `other`.
        notice: the text of the file NOTICE, if the licence requires one.
        terms: a sentence about its terms.
        ask: True if whoever publishes has to name the licence.
    """

    id: str
    title: str
    link: str | None = None
    name: str | None = None
    notice: str | None = None
    terms: str | None = None
    ask: bool = False


@dataclass(frozen=True)
class Variant:
    """A row of the table. `visual_tokens` and `text_tokens` have one entry for each set of prompts.

    `counted` says what the visual tokens are of: "image" or "video".
    """

    key: str
    base: str
    family: str
    licence: Licence
    divprune_config: dict[str, Any]
    visual_tokens: list[int]
    text_tokens: list[int]
    prompts: str
    language_model: dict[str, int]
    counted: str = "image"
    paper: dict[str, Any] | None = None
    measured: dict[str, Any] | None = None
    details: str | None = None
    datasets: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)


def asset(name: str) -> str:
    """Return the text of a file in `assets/`."""
    return (resources.files("divprune_hf.cards") / "assets" / name).read_text(encoding="utf-8")


@functools.cache
def parsed_table() -> dict[str, Any]:
    """Return the content of `variants.toml`."""
    return tomllib.loads(asset("variants.toml"))


def licence_ids() -> list[str]:
    """Return the licence ids that the Hub accepts."""
    return parsed_table()["licence_ids"]


@functools.cache
def read_table() -> tuple[dict[str, Licence], dict[str, Variant]]:
    """Return the licences and the variants, by their keys."""
    table = parsed_table()
    licences = {key: Licence(**entry) for key, entry in table["licences"].items()}
    variants = {}
    for key, row in table["variants"].items():
        entry, prompts = dict(row), table["prompts"][row["prompts"]]
        text_tokens = prompts["text_tokens"]
        entry["visual_tokens"] = prompts.get("visual_tokens") or [entry["visual_tokens"]] * len(text_tokens)
        entry |= {"text_tokens": text_tokens, "prompts": prompts["title"], "licence": licences[entry["licence"]]}
        entry["counted"] = prompts.get("counted", "image")
        entry["paper"] = table["paper"][entry["paper"]] if "paper" in entry else None
        variants[key] = Variant(key=key, **entry)
    return licences, variants


def variant_of(base: str | None) -> Variant | None:
    """Return the row of a base by its Hub id, upper or lower case alike, or None."""
    rows = read_table()[1].values()
    return next((row for row in rows if base is not None and row.base.lower() == base.lower()), None)


def licence_for(base: str | None, given: str | None) -> Licence:
    """Return the licence under which a variant of a base is published.

    Args:
        base: the Hub id of the base, if it is known.
        given: the licence that the user names, if any.

    Raises:
        ValueError: the licence is unknown, differs from the one given, or has to be named by the user and was not.
    """
    row = variant_of(base)
    of_base = base or "the base (a folder, so its Hub id is not recorded)"
    if row is None:
        if given is None:
            raise ValueError(
                f"The licence of {of_base} is not known: look it up, make sure that it allows to publish a copy, and "
                "pass its Hub id, such as --license apache-2.0 (license=)."
            )
        known = {licence.id: licence for licence in read_table()[0].values() if not licence.ask}
        return known.get(given) or Licence(id=given, title=given)
    licence = row.licence
    if given is not None and given != licence.id:
        raise ValueError(f"Got license={given!r}, but {of_base} is under {licence.id!r} ({licence.title}).")
    if given is None and licence.ask:
        raise ValueError(
            f"{of_base} is under the {licence.title}. {licence.terms} If you may publish a copy under it, pass "
            f"--license {licence.id} (license={licence.id!r})."
        )
    return licence
