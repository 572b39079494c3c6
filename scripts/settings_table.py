"""The table of settings in docs/budgets.md, from `divprune_hf.remote_code.settings.SETTINGS`.

    python scripts/settings_table.py [--check]

The table stands between `<!-- table settings -->` and `<!-- end -->`; `--check` fails if it is out of date.
"""

from pathlib import Path

from divprune_hf.common.markdown import markdown_table, with_tables
from divprune_hf.common.page_tables import update
from divprune_hf.remote_code.settings import SETTINGS, Setting


PAGE = Path(__file__).parents[1] / "docs" / "budgets.md"


def cells(name: str, setting: Setting) -> list[str]:
    """Return the cells of one setting: name, values, default, where it is taken, help."""
    values = " or ".join(f"`{choice}`" for choice in setting.choices or ()) or setting.kind.__name__
    default = "not set" if setting.default is None else f"`{setting.default}`"
    taken = "loading and per call" if setting.per_call else "loading"
    return [f"`{name}`", values, default, taken, setting.help]


def settings_table() -> str:
    """Return the table in Markdown, a line for each setting."""
    header = ["setting", "values", "default", "given while", "meaning"]
    return markdown_table(header, [cells(name, setting) for name, setting in SETTINGS.items()])


def rendered(page: str) -> str:
    """Return `page` with its table made anew; a `ValueError` where it has no place for one."""
    return with_tables(page, {"settings": settings_table})


def main() -> None:
    update(PAGE, rendered, "settings_table", __doc__.splitlines()[0])


if __name__ == "__main__":
    main()
