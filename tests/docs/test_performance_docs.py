"""What docs/performance.md and README say is what the files of the benchmarks hold."""

import json
import re
from pathlib import Path

from scripts.performance_tables import DOCS, PAGE, TABLES, read, rendered


ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


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


def test_the_readme_has_the_figures_of_the_runs():
    ratios = read("tiny-cpu")["ratios"]["batch 1, budget 0.098"]
    sentence = f"{ratios['stock_prefill_over_ours']:.1f} times as fast with a tenth of them, at "
    sentence += f"{ratios['prefill_over_oracle']:.2f} times the time of an"
    assert sentence in " ".join(README.split())
    (video,) = (row for row in read("selection")["rows"] if row["tokens"] == 18432 and row["path"] == "torch")
    assert f"in {video['bytes_beyond_input'] / 1e6:.0f} MB beyond its features" in README
    over_gram = {(row["tokens"], row["kept"], row["path"]): row["over_gram"] for row in read("selection")["rows"]}
    for tokens, kept in ((576, 56), (1152, 115), (2880, 282), (4608, 461)):
        cells = [f"{tokens}, {kept}", *(f"{over_gram[tokens, kept, path]:.2f}" for path in ("naive", "torch"))]
        assert re.search(r"\| *" + r" *\| *".join(map(re.escape, cells)) + r" *\|", README), cells
