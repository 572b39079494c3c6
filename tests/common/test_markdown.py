"""The one function that writes Markdown tables, in its three styles."""

import pytest

from divprune_hf.common.markdown import markdown_row, markdown_table


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
