"""The tables of docs/performance.md, from the JSON that `divprune-hf bench` wrote to docs/performance/.

    python scripts/performance_tables.py [--check]

Each table stands between `<!-- table NAME -->` and `<!-- end -->`; `--check` fails if one is not what its file says.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from divprune_hf.benchmarks.shapes import NUM_TEXT_TOKENS, SHAPES
from divprune_hf.common.markdown import markdown_table, with_tables
from divprune_hf.common.page_tables import update
from divprune_hf.remote_code.budget import keep_count


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


def profile(name: str) -> str:
    """Return milliseconds and shares of the prefill and the least of each part, a line for each part."""
    rows = read(name)["rows"]
    measured = {(row["part"], row["batch"]): row for row in rows}
    parts, batches = dict.fromkeys(row["part"] for row in rows), sorted({row["batch"] for row in rows})
    lines = []
    for part in parts:
        line = [part]
        for batch in batches:
            row, whole = measured[part, batch], measured["prefill", batch]
            least = row.get("least_milliseconds")
            line.append(f"{row['milliseconds']:.2f} ({row['milliseconds'] / whole['milliseconds']:.1%})")
            line.append("" if least is None else f"{least:.2f}")
        lines.append(line)
    header = [cell for batch in batches for cell in (f"batch {batch}, ms", "least")]
    return markdown_table(["part", *header], lines)


def compiled_prefill() -> str:
    """Return a whole prefill, eager and compiled."""
    lines = [
        [
            row["shape"],
            f"{row['batch']}",
            row["path"],
            f"{row['milliseconds']:.2f}",
            f"{row['compiled_milliseconds']:.2f}",
            f"{row['compiled_milliseconds'] / row['milliseconds']:.2f}",
        ]
        for row in read("compiled-prefill")["rows"]
    ]
    return markdown_table(["shape", "batch", "model", "eager, ms", "compiled, ms", "compiled over eager"], lines)


def preprocessing(*names: str) -> str:
    """Return the time of the processors by image backend, and its share of a request for one token."""
    lines = [
        [
            row["shape"],
            row["backend"],
            f"{row['stock_milliseconds']:.2f}",
            f"{row['milliseconds']:.2f}",
            f"{row['generate_milliseconds']:.1f}",
            f"{row['share']:.1%}",
        ]
        for name in names
        for row in read(name)["rows"]
    ]
    header = ["shape", "image processor of", "stock processor, ms", "divprune_hf, ms", "generate, ms"]
    return markdown_table([*header, "share of the request"], lines)


def transformer_flops(num_layers: int, num_tokens: int, sizes: Mapping[str, int], feed_forwards: int) -> int:
    """Return the operations of some layers: products with the weights, and attention.

    Args:
        num_layers: how many layers.
        num_tokens: the length of the sequence.
        sizes: "hidden_size" and "intermediate_size".
        feed_forwards: matrices of the feed-forward part: 2, or 3 where it is gated.
    """
    width, inner = sizes["hidden_size"], sizes["intermediate_size"]
    weights = 4 * width**2 + feed_forwards * width * inner
    return num_layers * (2 * num_tokens * weights + 4 * num_tokens**2 * width)


def unused() -> str:
    """Return the share of a prefill's operations that the vision layers above the one that is read would take."""
    lines = []
    for name, shape in SHAPES.items():
        if shape.trained:
            continue
        views = {"llava": 1, "llava_next": 5, "llava_next_video": 8}[shape.family]
        patches = (shape.vision["image_size"] // shape.vision["patch_size"]) ** 2
        layer = views * transformer_flops(1, patches + 1, shape.vision, 2)
        width, vision_width = shape.text["hidden_size"], shape.vision["hidden_size"]
        projector = 2 * views * patches * (vision_width * width + width**2)
        line = [name]
        for ratio in (1.0, 0.098):
            prompt = NUM_TEXT_TOKENS + keep_count(shape.num_available, retention_ratio=ratio)
            language = transformer_flops(shape.text["num_hidden_layers"], prompt, shape.text, 3)
            stock = shape.vision["num_hidden_layers"] * layer + projector + language
            line.append(f"{layer / stock:.2%}")
        lines.append(line)
    return markdown_table(["shape", "all tokens", "9.8 % kept"], lines)


def on_gpu() -> str:
    """Return prefills on a GPU by shape and batch, as far as `make gpu` has measured them."""
    lines = []
    for shape in ("llava-1.5-7b", "llava-1.5-13b", "llava-1.6-7b", "llava-next-video-7b"):
        if not (DOCS / "performance" / "gpu" / f"{shape}.json").is_file():
            lines.append([shape, "not measured yet", *[""] * 6])
            continue
        run = read(f"gpu/{shape}")
        by_path = {(row["batch"], row["path"]): row["prefill_ms"] for row in run["rows"]}
        for batch in sorted({batch for batch, _ in by_path}):
            stock, ours, oracle = (by_path[batch, path] for path in ("stock", "divprune", "oracle"))
            cells = (f"{stock:.1f}", f"{ours:.1f}", f"{oracle:.1f}", f"{ours / oracle:.3f}", f"{stock / ours:.2f}")
            lines.append([shape, run["hardware"], f"{batch}", *cells])
    header = ["shape", "GPU", "batch", "prefill, ms: stock", "divprune_hf", "oracle", "over oracle", "stock over ours"]
    return markdown_table(header, lines)


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
    "profile": lambda: profile("profile"),
    "profile-tiny-cpu": lambda: profile("profile-tiny-cpu"),
    "compiled-prefill": compiled_prefill,
    "preprocessing": lambda: preprocessing("preprocessing-tiny-cpu", "preprocessing-pocket"),
    "unused-layers": unused,
    "on-gpu": on_gpu,
    "selection": selection,
    "loading": loading,
}


def rendered(page: str) -> str:
    """Return `page` with all its tables made anew."""
    return with_tables(page, TABLES)


def main() -> None:
    update(PAGE, rendered, "performance_tables", __doc__.splitlines()[0])


if __name__ == "__main__":
    main()
