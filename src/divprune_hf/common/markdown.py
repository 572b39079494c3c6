"""Tables in Markdown."""

from collections.abc import Iterable, Sequence
from typing import Literal


Style = Literal["plain", "tight", "aligned"]


def markdown_row(cells: Iterable[object]) -> str:
    """Return one line of a table."""
    return "| " + " | ".join(map(str, cells)) + " |"


def markdown_table(header: Sequence[object], rows: Iterable[Sequence[object]] = (), style: Style = "plain") -> str:
    """Return a table without a newline at its end.

    Args:
        header: the titles of the columns.
        rows: the cells of each line below, as many as `header` has.
        style: `"plain"`; `"tight"`, which has no blanks in the rule below the header; `"aligned"`, which pads all cells
            of a column to one width.
    """
    lines = [[str(cell) for cell in line] for line in (header, *rows)]
    if style == "aligned":
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        lines = [[cell.ljust(width) for cell, width in zip(line, widths)] for line in lines]
        rule = markdown_row("-" * width for width in widths)
    else:
        rule = markdown_row(["---"] * len(header))
    if style == "tight":
        rule = rule.replace(" ", "")
    first, *others = map(markdown_row, lines)
    return "\n".join([first, rule, *others])
