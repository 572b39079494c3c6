"""The tables of docs/performance.md, from the JSON that `divprune-hf bench` wrote to docs/performance/.

    python scripts/performance_tables.py [--check]

Each table stands between `<!-- table NAME -->` and `<!-- end -->`; `--check` fails if one is not what its file says.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from divprune_hf.common.markdown import markdown_table, with_tables
from divprune_hf.common.whole_file import write_whole


DOCS = Path(__file__).parents[1] / "docs"
PAGE = DOCS / "performance.md"
MB = 1e6


def read(name: str) -> dict[str, Any]:
    """Return what a benchmark wrote, by the name of its file."""
    return json.loads((DOCS / "performance" / f"{name}.json").read_text(encoding="utf-8"))


def generation(name: str) -> str:
    """Return stock, ours and the oracle, a line for each batch and budget."""
    run = read(name)
    by_path = {(row["batch"], row["budget"], row["path"]): row for row in run["rows"]}
    lines = []
    for batch, budget in sorted({key[:2] for key in by_path}):
        stock, ours, oracle = (by_path[batch, budget, path] for path in ("stock", "divprune", "oracle"))
        ratios = run["ratios"][f"batch {batch}, budget {budget}"]
        lines.append(
            [
                f"{batch}",
                f"{budget:.1%}",
                *(f"{row['prefill_ms']:.1f}" for row in (stock, ours, oracle)),
                f"{ratios['prefill_over_oracle']:.3f}",
                f"{ratios['stock_prefill_over_ours']:.2f}",
                f"{1 / ratios['llm_flops_over_stock']:.2f}",
                *(f"{row['tokens_per_second']:.0f}" for row in (stock, ours)),
                *(f"{row['kv_bytes'] / MB:.2f}" for row in (stock, ours)),
                *(f"{row['peak_bytes'] / MB:.0f}" for row in (stock, ours)),
            ]
        )
    header = ["batch", "kept", "prefill, ms: stock", "divprune_hf", "oracle", "over oracle", "stock over ours"]
    header += ["FLOP model, stock over ours", "tokens/s after the first: stock", "divprune_hf"]
    header += ["KV cache, MB: stock", "divprune_hf", "peak memory, MB: stock", "divprune_hf"]
    return markdown_table(header, lines)


def decoding(*names: str) -> str:
    """Return throughput after the first token, eager and compiled, where both were measured."""
    lines = []
    for name in names:
        runs = [read(name), read(f"{name}-compiled")]
        eager, compiled = (
            {(row["batch"], row["budget"], row["path"]): row["tokens_per_second"] for row in run["rows"]}
            for run in runs
        )
        for batch, budget in sorted({key[:2] for key in eager.keys() & compiled.keys()}):
            speeds = [run[batch, budget, path] for path in ("stock", "divprune") for run in (eager, compiled)]
            lines.append([name, f"{batch}", f"{budget:.1%}", *(f"{speed:.0f}" for speed in speeds)])
    header = [
        "shape",
        "batch",
        "kept",
        "stock, eager",
        "stock, compiled",
        "divprune_hf, eager",
        "divprune_hf, compiled",
    ]
    return markdown_table(header, lines)


def profile() -> str:
    """Return milliseconds and shares of the prefill, a line for each part."""
    rows = read("profile")["rows"]
    times = {(row["part"], row["batch"]): row["milliseconds"] for row in rows}
    parts, batches = dict.fromkeys(row["part"] for row in rows), sorted({row["batch"] for row in rows})
    lines = [
        [part] + [f"{times[part, b]:.2f} ({times[part, b] / times['prefill', b]:.1%})" for b in batches]
        for part in parts
    ]
    return markdown_table(["part", *(f"batch {batch}, ms" for batch in batches)], lines)


def selection() -> str:
    """Return the ratios to the product alone."""
    by_shape: dict[tuple[int, int, int], dict[str, Any]] = {}
    for row in read("selection")["rows"]:
        by_shape.setdefault((row["tokens"], row["kept"], row["batch"]), {})[row["path"]] = row
    lines = []
    for (tokens, kept, batch), rows in by_shape.items():
        best = rows.get("triton", rows["torch"])
        naive = f"{rows['naive']['over_gram']:.2f}" if "naive" in rows else ""
        beyond = f"{best['bytes_beyond_input'] / MB:.0f}" if "bytes_beyond_input" in best else ""
        ours, product = f"{best['over_gram']:.2f}", f"{rows['gram']['milliseconds']:.0f}"
        lines.append([f"{tokens}, {kept}", f"{batch}", naive, ours, product, beyond])
    header = ["visual tokens, kept", "batch", "naive loop", "divprune_hf", "the product, ms", "MB beyond the features"]
    return markdown_table(header, lines)


def loading() -> str:
    """Return the cost of loading a variant, beside its base."""
    run = read("loading")
    stock, ours = run["rows"]
    lines = [
        ["seconds", f"{stock['seconds']:.2f}", f"{ours['seconds']:.2f}", f"{run['ratios']['seconds']:.3f}"],
        [
            "peak memory of the process, MB",
            *(f"{row['peak_bytes'] / MB:.0f}" for row in (stock, ours)),
            f"{run['ratios']['peak_bytes']:.3f}",
        ],
    ]
    return markdown_table(["", "base", "variant", "ratio"], lines)


TABLES = {
    "tiny-cpu": lambda: generation("tiny-cpu"),
    "pocket": lambda: generation("pocket"),
    "decoding": lambda: decoding("tiny-cpu", "pocket"),
    "profile": profile,
    "selection": selection,
    "loading": loading,
}


def rendered(page: str) -> str:
    """Return `page` with all its tables made anew."""
    return with_tables(page, TABLES)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing, and fail if a table is out of date")
    options = parser.parse_args()
    page = PAGE.read_text(encoding="utf-8")
    if options.check:
        sys.exit(
            0 if rendered(page) == page else "docs/performance.md is out of date: run scripts/performance_tables.py"
        )
    write_whole(PAGE, rendered(page))


if __name__ == "__main__":
    main()
