"""The table of families in docs/families.md, from `divprune_hf.checkpoints.families.FAMILIES`.

    python scripts/families_table.py [--check]

The table stands between `<!-- table families -->` and `<!-- end -->`; `--check` fails if it is out of date.
"""

import argparse
import sys
from pathlib import Path

from divprune_hf.checkpoints.families import FAMILIES, Family
from divprune_hf.common.markdown import markdown_table, with_tables
from divprune_hf.common.whole_file import write_whole


PAGE = Path(__file__).parents[1] / "docs" / "families.md"


def cells(family: Family) -> list[str]:
    """Return the cells of one family: name, model type, release, budget of an image, videos."""
    major, minor = family.names.release
    needed = "4.57, or 5.10 and later" if major == 4 else f"{major}.{minor} or later"
    videos = "no" if family.video_processor_type is None else "yes: all frames are one pool"
    return [family.title, f"`{family.base_model_type}`", needed, family.unit, videos]


def families_table() -> str:
    """Return the table in Markdown, a line for each family."""
    header = ["family", "`model_type`", "transformers", "one budget for", "videos"]
    return markdown_table(header, list(map(cells, FAMILIES.values())))


def rendered(page: str) -> str:
    """Return `page` with its table made anew; a `ValueError` where it has no place for one."""
    return with_tables(page, {"families": families_table})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing, and fail if the table is out of date")
    options = parser.parse_args()
    page = PAGE.read_text(encoding="utf-8")
    if options.check:
        sys.exit(0 if rendered(page) == page else "docs/families.md is out of date: run scripts/families_table.py")
    write_whole(PAGE, rendered(page))


if __name__ == "__main__":
    main()
