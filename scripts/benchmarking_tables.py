"""The tables of docs/benchmarking.md, from the JSON that `divprune-hf bench MODEL` wrote to docs/benchmarking/.

python scripts/benchmarking_tables.py
"""

import json
from pathlib import Path
from typing import Any

from divprune_hf.benchmarks import bench_model, bench_serving
from divprune_hf.common.markdown import markdown_table, with_tables
from divprune_hf.common.whole_file import write_whole


DOCS = Path(__file__).parents[1] / "docs"
PAGE = DOCS / "benchmarking.md"


def read(name: str) -> dict[str, Any]:
    """Return what a benchmark wrote, by the name of its file."""
    return json.loads((DOCS / "benchmarking" / f"{name}.json").read_text(encoding="utf-8"))


def stages() -> str:
    """Return the stages of an answer, a line for each cell, and the sentence on what bounds the gain."""
    run = read("stages")
    table = markdown_table([*bench_model.HEADER, *bench_model.RATIOS], map(bench_model.cells_of, run["rows"]))
    return "\n\n".join([table, *(bound["sentence"] for bound in run["bounds"])])


def served() -> str:
    """Return a served model under load, a line for each cell."""
    return markdown_table(bench_serving.HEADER, map(bench_serving.cells_of, read("served")["rows"]))


def rendered(page: str) -> str:
    """Return `page` with its tables made anew."""
    return with_tables(page, {"stages": stages, "served": served})


def main() -> None:
    write_whole(PAGE, rendered(PAGE.read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
