"""Tables in Markdown."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
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


def with_tables(page: str, tables: Mapping[str, Callable[[], str]]) -> str:
    """Return a page with its tables made anew, each between `<!-- table NAME -->` and `<!-- end -->`.

    Raises:
        ValueError: the page has no place for one of the tables.
    """
    for name, table in tables.items():
        place = re.compile(rf"(?<=<!-- table {re.escape(name)} -->\n).*?(?=\n<!-- end -->)", re.DOTALL)
        if not place.search(page):
            raise ValueError(f"Got a page without `<!-- table {name} -->` and `<!-- end -->`, expected both.")
        page = place.sub(table().replace("\\", r"\\"), page)  # a backslash is text, not a reference
    return page
