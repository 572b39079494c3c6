"""The commands and blocks of code in README and docs pages."""

import importlib.util
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from divprune_hf.cli.parser import build_parser


ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").glob("*.md"))
HUB_COMMANDS = ("push", "publish", "verify")
MARKER = re.compile(r"<!-- (needs|takes): (.+) -->")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    Args:
        place: page and line, for messages.
        language: the word behind the opening fence.
        text: its lines.
        reason: the text of the marker right above it (`<!-- needs: a GPU -->`), which says why no test runs it.
    """

    place: str
    language: str
    text: str
    reason: str | None

    @property
    def commands(self) -> list[list[str]]:
        """The words of each command of a console block."""
        lines = [part for line in self.text.splitlines() for part in line.split(" && ")]
        return [shlex.split(line) for line in lines]


def blocks_of(page: Path, language: str | None = None, marked: bool | None = None) -> list[Block]:
    """Return the fenced blocks of a page.

    Args:
        page: a Markdown file.
        language: only blocks of this language.
        marked: only blocks with a marker, or only those without.
    """
    blocks, lines, start = [], page.read_text(encoding="utf-8").splitlines(), None
    for number, line in enumerate(lines):
        if not line.startswith("```"):
            continue
        if start is None:
            start = number
            continue
        marker = MARKER.fullmatch(lines[start - 1])
        text = "".join(f"{inner}\n" for inner in lines[start + 1 : number])
        place = f"{page.relative_to(ROOT)}:{start + 1}"
        blocks.append(Block(place, lines[start].strip("`"), text, marker[2] if marker else None))
        start = None
    assert start is None, f"{page}: a block has no end"
    return [
        block
        for block in blocks
        if (language is None or block.language == language) and (marked is None or marked == bool(block.reason))
    ]


def prose_of(page: Path) -> str:
    """Return a page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def code_spans(page: Path) -> list[str]:
    """Return the texts between single backticks, with line breaks as spaces."""
    return [" ".join(span.split()) for span in re.findall(r"(?<!`)`([^`]+)`(?!`)", prose_of(page))]


def check_parses(words: list[str], place: str) -> None:
    """Fail unless `divprune-hf` with these arguments is a command that it has."""
    try:
        build_parser().parse_args(words[1:])
    except SystemExit as end:
        assert not end.code, f"{place}: {shlex.join(words)}"


def check_names_what_exists(words: list[str], place: str) -> None:
    """Fail unless a command that no test runs is one of this package, or names a script or program that there is."""
    if words[0] == "divprune-hf":
        check_parses(words, place)
    elif words[0] == "python" and words[1] == "-m":
        is_own = words[2].startswith("scripts.")
        assert not is_own or importlib.util.find_spec(words[2]), f"{place}: {words[2]}"
    elif words[0] == "python":
        assert (ROOT / words[1]).is_file(), f"{place}: {words[1]}"
    else:
        assert words[0] in ("pip", "npm", "tar", "lmms-eval"), f"{place}: an unknown program, {words[0]}"


def check_named(span: str, place: str) -> None:
    """Fail unless a command in a sentence has these arguments, or, where it is a name alone, is there with its flag."""
    words = shlex.split(span)
    is_name = len(words) <= 3 and not any(word.startswith("-") for word in words[1:-1])
    if not is_name or words[1].startswith("-"):
        check_parses(words, place)
        return
    (commands,) = (action.choices for action in build_parser()._actions if isinstance(action.choices, dict))
    assert words[1] in commands, f"{place}: {span}"
    if words[-1].startswith("-"):
        assert words[-1] in commands[words[1]]._option_string_actions, f"{place}: {span}"
    elif len(words) == 3:
        check_parses([*words, "--help"], place)
