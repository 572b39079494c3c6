"""The figures of `accuracy_vs_budget.py` as a Markdown table and as figure 1 of the paper: score against FLOPs."""

import itertools
from pathlib import Path

import matplotlib


matplotlib.use("Agg")

from matplotlib import pyplot as plt

from divprune_hf.remote_code.selectors import SELECTORS


# By selector: colour-blind safe, and told apart in print by their markers.
PALETTE = [("#0072B2", "o"), ("#D55E00", "s"), ("#009E73", "^"), ("#CC79A7", "D"), ("#E69F00", "v"), ("#56B4E9", "P")]
STYLES = dict(zip(SELECTORS, itertools.cycle(PALETTE)))
LABELS = {name: selector.label for name, selector in SELECTORS.items()}


def markdown_table(run: dict) -> str:
    """One table per kind of question: accuracy in percent with its 95 % interval, and what DivPrune leads by."""
    means = run["means"]
    selectors = list(dict.fromkeys(row["selector"] for row in means))
    others = list(dict.fromkeys(row["other"] for row in run["differences"]))
    blocks = []
    for kind in dict.fromkeys(row["kind"] for row in means):
        rows = [row for row in means if row["kind"] == kind]
        seeds = max(row["seeds"] for row in rows)
        names = [f"{name}, mean of {seeds} seeds" if name == "random" and seeds > 1 else name for name in selectors]
        header = ["budget", "visual tokens", "FLOPs", *names, *(f"{selectors[0]} - {other}" for other in others)]
        if "of_unpruned" in rows[0]:
            header.append(f"{selectors[0]}, of unpruned")
        lines = [f"{rows[0]['questions']} questions of kind {kind}:", ""]
        lines += [line_of(header), line_of(["---"] * len(header))]
        for budget in dict.fromkeys(row["budget"] for row in rows):
            of_budget = {row["selector"]: row for row in rows if row["budget"] == budget}
            first = of_budget[selectors[0]]
            cells = [str(budget), f"{first['kept_tokens']:.4g} of {first['visual_tokens']:.4g}"]
            cells.append(f"{first['flop_ratio']:.1%}")
            cells += [percent(of_budget[name], "accuracy") for name in selectors]
            for other in others:
                (gap,) = (
                    gap
                    for gap in run["differences"]
                    if (gap["other"], gap["budget"], gap["kind"]) == (other, budget, kind)
                )
                cells.append(percent(gap, "difference", "+.1f"))
            if "of_unpruned" in first:
                cells.append(percent(first, "of_unpruned", ci="of_unpruned_ci"))
            lines.append(line_of(cells))
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks) + "\n"


def line_of(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def percent(row: dict, name: str, form: str = ".1f", ci: str = "ci") -> str:
    """A share as "95.6 (94.6 to 96.5)"."""
    low, high = row[f"{ci}_low"], row[f"{ci}_high"]
    return f"{100 * row[name]:{form}} ({100 * low:{form}} to {100 * high:{form}})"


def draw_figure(run: dict, out: Path) -> None:
    """Write figure 1 as PNG: one panel per kind of question, one line per selector, bars of 95 % confidence."""
    kinds = list(dict.fromkeys(row["kind"] for row in run["means"]))
    figure, panels = plt.subplots(1, len(kinds), figsize=(1.2 + 3.4 * len(kinds), 3.4), squeeze=False, dpi=110)
    for panel, kind in zip(panels[0], kinds):
        rows = [row for row in run["means"] if row["kind"] == kind]
        for selector in dict.fromkeys(row["selector"] for row in rows):
            line = sorted((row for row in rows if row["selector"] == selector), key=lambda row: row["flop_ratio"])
            scores = [100 * row["accuracy"] for row in line]
            below = [100 * (row["accuracy"] - row["ci_low"]) for row in line]
            above = [100 * (row["ci_high"] - row["accuracy"]) for row in line]
            colour, marker = STYLES[selector]
            panel.errorbar(
                [100 * row["flop_ratio"] for row in line],
                scores,
                yerr=[below, above],
                color=colour,
                marker=marker,
                markersize=4,
                linewidth=1.3,
                capsize=2,
                label=LABELS[selector],
            )
        unpruned = [100 * row["accuracy"] for row in rows if row["kept_tokens"] == row["visual_tokens"]]
        if unpruned:
            panel.axhline(unpruned[0], color="#888888", linewidth=0.8, linestyle="--", label="all visual tokens")
        panel.set_title(kind, fontsize=10)
        panel.set_xlabel("prefill FLOPs, % of unpruned")
        panel.grid(alpha=0.25)
    panels[0][0].set_ylabel("accuracy, %")
    panels[0][0].legend(fontsize=8, loc="lower right")
    figure.tight_layout()
    figure.savefig(out)
    plt.close(figure)
