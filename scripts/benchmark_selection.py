"""What the selection costs, beside the Gram product it contains and beside the naive loop.

    python scripts/benchmark_selection.py [--json FILE] [--repeats N] [--threads N] [--tokens M [M ...]]

Random float32 features of LLaVA-1.5's width (4096), one image, the paper's share of tokens. The three paths take turns
within each repeat, so that what else the machine does hits all of them alike; figures are medians, to be read as
ratios to the Gram product, not as times.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch

from divprune_hf import keep_count, select_diverse_tokens


WIDTH = 4096
TOKENS = (576, 1152, 2880, 4608)  # LLaVA-1.5, 8 video frames, LLaVA-1.6, 32 video frames
RETENTION_RATIO = 0.098


def gram(features, num_tokens):
    """The matrix product alone, which any exact selection needs at least once."""
    return features @ features.T


def naive(features, num_tokens):
    """The loop as one writes it down: every step looks at the distances to all picked tokens again."""
    unit = features / features.norm(dim=1, keepdim=True)
    distances = 1 - unit @ unit.T
    distances.fill_diagonal_(float("inf"))
    picked = [int(distances.amin(dim=1).argmax())]
    for _ in range(num_tokens - 1):
        smallest = distances[:, picked].amin(dim=1)
        smallest[picked] = -float("inf")
        picked.append(int(smallest.argmax()))
    return torch.tensor(sorted(picked))


PATHS = {"gram": gram, "naive": naive, "torch": select_diverse_tokens}


def measure(tokens, repeats):
    """Medians of interleaved runs: one row per path."""
    kept = keep_count(tokens, retention_ratio=RETENTION_RATIO)
    features = torch.randn(tokens, WIDTH, generator=torch.Generator().manual_seed(tokens))
    seconds = {path: [] for path in PATHS}
    for repeat in range(repeats + 1):
        for path, run in PATHS.items():
            started = time.perf_counter()
            run(features, kept)
            if repeat > 0:  # the first round pays for set-up
                seconds[path].append(time.perf_counter() - started)
    medians = {path: statistics.median(runs) for path, runs in seconds.items()}
    common = {"tokens": tokens, "kept": kept, "batch": 1, "device": "cpu", "dtype": "float32"}
    return [
        {**common, "path": path, "milliseconds": 1000 * median, "over_gram": median / medians["gram"]}
        for path, median in medians.items()
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", metavar="FILE", help="write the rows here")
    parser.add_argument("--repeats", type=int, default=9, metavar="N", help="runs of each path (9)")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="threads of torch (1)")
    parser.add_argument("--tokens", type=int, nargs="+", default=TOKENS, metavar="M", help="visual tokens per image")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = []
    print("| tokens | kept | path | ms | over Gram |\n|---|---|---|---|---|")
    for tokens in options.tokens:
        rows += measure(tokens, options.repeats)
        for row in rows[-len(PATHS) :]:
            print("| {tokens} | {kept} | {path} | {milliseconds:.1f} | {over_gram:.2f} |".format(**row), flush=True)
    if options.json:
        Path(options.json).write_text(json.dumps({"rows": rows}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
