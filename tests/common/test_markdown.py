"""The one function that writes Markdown tables, in its three styles."""

import pytest

from divprune_hf.common.markdown import markdown_row, markdown_table, with_tables


@pytest.mark.parametrize(
    ("style", "table"),
    [
        ("plain", "| a | bc |\n| --- | --- |\n| 1234 | x |\n| 5 |  |"),
        ("tight", "| a | bc |\n|---|---|\n| 1234 | x |\n| 5 |  |"),
        ("aligned", "| a    | bc |\n| ---- | -- |\n| 1234 | x  |\n| 5    |    |"),
    ],
)
def test_styles(style, table):
    assert markdown_table(["a", "bc"], [[1234, "x"], (5, "")], style=style) == table


def test_a_table_can_be_printed_line_by_line():
    rows = [["w x", "y"], ["z", "-"]]
    lines = [markdown_table(["a", "b"], style="tight"), *map(markdown_row, rows)]
    assert "\n".join(lines) == markdown_table(["a", "b"], rows, style="tight")


def test_tables_of_a_page_are_made_anew_and_nothing_else():
    page = "a\n<!-- table one -->\nold\n<!-- end -->\nb\n<!-- table two -->\nold\nold\n<!-- end -->\n"
    made = with_tables(page, {"one": lambda: r"| \1 |", "two": lambda: "| new |"})
    assert made == page.replace("old\nold", "| new |").replace("old", r"| \1 |")
    with pytest.raises(ValueError, match="Got a page without `<!-- table three -->`"):
        with_tables(page, {"three": str})
