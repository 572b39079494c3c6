"""What docs/performance.md and README say is what the files of the benchmarks hold."""

import json
import re
from pathlib import Path

from scripts.performance_tables import DOCS, PAGE, TABLES, rendered


ROOT = Path(__file__).parents[2]


def test_the_tables_are_those_of_the_runs():
    page = PAGE.read_text(encoding="utf-8")
    assert rendered(page) == page
    assert set(re.findall(r"<!-- table ([\w-]+) -->", page)) == TABLES.keys()


def test_the_page_names_what_the_runs_were_made_on():
    page = PAGE.read_text(encoding="utf-8")
    for file in (DOCS / "performance").glob("*.json"):
        run = json.loads(file.read_text(encoding="utf-8"))
        versions = run["versions"]
        assert run["date"] in page and run["hardware"].replace(", ", " of an ") in page, file
        assert f"torch {versions['torch']}, transformers {versions['transformers']}" in page, file
