"""The figures of an evaluation as Markdown tables and as figure 1 of the paper: score against FLOPs."""

import itertools
from pathlib import Path
from typing import Any

from divprune_hf.common.markdown import markdown_table
from divprune_hf.evaluation.baselines import BASELINES
from divprune_hf.evaluation.settings import draws
from divprune_hf.remote_code.selectors import SELECTORS


# Colours that colour-blind readers can tell apart, and markers for print: no two methods share both.
COLOURS = [
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"),
    *("#000000", "#8C564B", "#7F7F7F", "#332288", "#999933", "#882255"),
]
MARKERS = ["o", "s", "^", "D", "v", "P", "X"]
STYLES = dict(zip([*SELECTORS, *BASELINES], zip(itertools.cycle(COLOURS), itertools.cycle(MARKERS))))
LAYER_COLOURS = ["#7FB8DA", "#9E9E9E", "#C9A227", "#8C564B"]
LABELS = {name: selector.label for name, selector in SELECTORS.items()}
LABELS |= {name: baseline.label for name, baseline in BASELINES.items()}


def accuracy_tables(report: dict[str, Any]) -> str:
    """Return one table per kind of question: accuracies in percent with 95 % intervals, and the first method's leads.

    Args:
        report: what `evaluate` returned.
    """
    blocks = []
    for kind in dict.fromkeys(row["kind"] for row in report["means"]):
        rows = [row for row in report["means"] if row["kind"] == kind]
        gaps = [row for row in report["differences"] if row["kind"] == kind]
        table = markdown_table(header_of(rows, gaps), lines_of(rows, gaps))
        blocks.append(f"{rows[0]['questions']} questions of kind {kind}:\n\n{table}")
        details = [row for row in report.get("details", []) if row["kind"] == kind]
        if details:
            blocks.append(
                f"Those that all tokens answer, and pooling to the same budget does not:\n\n{details_table(details)}"
            )
    return "\n\n".join(blocks) + "\n"


def details_table(rows: list[dict[str, Any]]) -> str:
    """Return the second score for one kind of question: a line for each budget, a column for each method."""
    methods = unique(rows, "method")
    lines = []
    for budget in unique(rows, "budget"):
        of_budget = {row["method"]: row for row in rows if row["budget"] == budget}
        number = next(iter(of_budget.values()))["questions"]
        lines.append([str(budget), str(number), *(percent(of_budget[method], "accuracy") for method in methods)])
    return markdown_table(["budget", "questions", *methods], lines)


def header_of(rows: list[dict[str, Any]], gaps: list[dict[str, Any]]) -> list[str]:
    """Return the titles of the columns for one kind of question."""
    firsts = {method_of(row): row for row in rows[::-1]}
    seeds = max(row["seeds"] for row in rows)
    methods = list(dict.fromkeys(map(method_of, rows)))
    names = [
        f"{method}, mean of {seeds} seeds" if draws(firsts[method]["selector"]) and seeds > 1 else method
        for method in methods
    ]
    leads = [f"{methods[0]} - {other}" for other in unique(gaps, "other")]
    header = ["budget", "visual tokens", "FLOPs", *names, *leads]
    return [*header, f"{methods[0]}, of unpruned"] if "of_unpruned" in rows[0] else header


def lines_of(rows: list[dict[str, Any]], gaps: list[dict[str, Any]]) -> list[list[str]]:
    """Return the cells of one kind of question, a line for each budget."""
    lines = []
    for budget in unique(rows, "budget"):
        means = {method_of(row): row for row in rows if row["budget"] == budget}
        leads = {gap["other"]: gap for gap in gaps if gap["budget"] == budget}
        first = means[method_of(rows[0])]
        cells = [
            str(budget),
            f"{first['kept_tokens']:.4g} of {first['visual_tokens']:.4g}",
            f"{first['flop_ratio']:.1%}",
        ]
        cells += [percent(mean, "accuracy") + other_flops(mean, first) for mean in means.values()]
        cells += [percent(leads[other], "difference", "+.1f") for other in unique(gaps, "other")]
        if "of_unpruned" in first:
            cells.append(percent(first, "of_unpruned", ci="of_unpruned_ci"))
        lines.append(cells)
    return lines


def other_flops(mean: dict[str, Any], first: dict[str, Any]) -> str:
    """Return the FLOPs of a method where they are not those of the first one, within one per cent of the unpruned."""
    differs = abs(mean["flop_ratio"] - first["flop_ratio"]) > 0.01
    return f" at {mean['flop_ratio']:.1%} of the FLOPs" if differs else ""


def method_of(row: dict[str, Any]) -> str:
    """Return the method of a row; where a run has one for each selector, rows may name the selector alone."""
    return str(row.get("method", row["selector"]))


def unique(rows: list[dict[str, Any]], name: str) -> list[Any]:
    """Return the values of a column, each once, in their order."""
    return list(dict.fromkeys(row[name] for row in rows))


def percent(row: dict[str, Any], name: str, form: str = ".1f", ci: str = "ci") -> str:
    """Return a share and its interval as "95.6 (94.6 to 96.5)"."""
    low, high = row[f"{ci}_low"], row[f"{ci}_high"]
    return f"{100 * row[name]:{form}} ({100 * low:{form}} to {100 * high:{form}})"


def draw_accuracy(report: dict[str, Any], out: Path) -> None:
    """Write figure 1 as PNG: one panel per kind of question, one line per method, bars of 95 % confidence."""
    from matplotlib.figure import Figure

    kinds = unique(report["means"], "kind")
    figure = Figure(figsize=(1.2 + 3.4 * len(kinds), 3.4), dpi=110)
    panels = figure.subplots(1, len(kinds), squeeze=False)[0]
    for panel, kind in zip(panels, kinds):
        rows = [row for row in report["means"] if row["kind"] == kind]
        for method in dict.fromkeys(map(method_of, rows)):
            line = sorted((row for row in rows if method_of(row) == method), key=lambda row: row["flop_ratio"])
            selector, moved = line[0]["selector"], method != line[0]["selector"]
            below = [100 * (row["accuracy"] - row["ci_low"]) for row in line]
            above = [100 * (row["ci_high"] - row["accuracy"]) for row in line]
            colour, marker = STYLES[selector]
            colour = (
                LAYER_COLOURS[(line[0].get("layer", 0) - 1) % len(LAYER_COLOURS)] if line[0].get("layer") else colour
            )
            panel.errorbar(
                [100 * row["flop_ratio"] for row in line],
                [100 * row["accuracy"] for row in line],
                yerr=[below, above],
                color=colour,
                marker=marker,
                markersize=4,
                markerfacecolor="white" if moved else colour,
                linewidth=1.3,
                linestyle=":" if moved else "-",
                capsize=2,
                label=LABELS[selector] + method.removeprefix(selector).replace(" original", ", original positions"),
            )
        unpruned = [100 * row["accuracy"] for row in rows if row["kept_tokens"] == row["visual_tokens"]]
        if unpruned:
            panel.axhline(unpruned[0], color="#888888", linewidth=0.8, linestyle="--", label="all visual tokens")
        panel.set_title(kind, fontsize=10)
        panel.set_xlabel("prefill FLOPs, % of unpruned")
        panel.grid(alpha=0.25)
    panels[0].set_ylabel("accuracy, %")
    panels[0].legend(fontsize=8, loc="lower right")
    figure.tight_layout()
    figure.savefig(out)
