"""The table of families in docs/families.md, from `divprune_hf.checkpoints.families.FAMILIES`.

    python scripts/families_table.py [--check]

The table stands between `<!-- table families -->` and `<!-- end -->`; `--check` fails if it is out of date.
"""

from pathlib import Path

from divprune_hf.checkpoints.families import FAMILIES, Family
from divprune_hf.common.markdown import markdown_table, with_tables
from divprune_hf.common.page_tables import update


PAGE = Path(__file__).parents[1] / "docs" / "families.md"


def cells(family: Family) -> list[str]:
    """Return the cells of one family: name, model type, release, budget of an image, videos."""
    videos = "no" if family.video_processor_type is None else "yes: all frames are one pool"
    return [family.title, f"`{family.base_model_type}`", family.releases, family.unit, videos]


def families_table() -> str:
    """Return the table in Markdown, a line for each family."""
    header = ["family", "`model_type`", "transformers", "one budget for", "videos"]
    return markdown_table(header, list(map(cells, FAMILIES.values())))


def rendered(page: str) -> str:
    """Return `page` with its table made anew; a `ValueError` where it has no place for one."""
    return with_tables(page, {"families": families_table})


def main() -> None:
    update(PAGE, rendered, "families_table", __doc__.splitlines()[0])


if __name__ == "__main__":
    main()
