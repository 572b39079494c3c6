"""The section of pocket-llava's card about answers from few tokens, from docs/evidence/pocket-llava/results.json."""

import json
from pathlib import Path

from divprune_hf.common.markdown import markdown_table


RESULTS = Path(__file__).resolve().parents[3] / "docs" / "evidence" / "pocket-llava" / "results.json"


def pruned_table(results: dict) -> str:
    """Return accuracy on presence questions by budget and selector, as a Markdown table."""
    means = {(row["selector"], row["budget"]): row for row in results["means"] if row["kind"] == "presence"}
    lines = []
    for budget in dict.fromkeys(budget for _, budget in means):
        first = means["max_min", budget]
        cells = [f"{first['kept_tokens']:.0f} of {first['visual_tokens']:.0f}", f"{first['flop_ratio']:.1%}"]
        cells += [f"{means[selector, budget]['accuracy']:.1%}" for selector in ("max_min", "random", "uniform")]
        lines.append(cells)
    return markdown_table(["Visual tokens", "Prefill FLOPs", "DivPrune", "random", "uniform"], lines, style="tight")


def pruned_section() -> str:
    """Return the card's section about pruning."""
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    (lead,) = (
        row
        for row in results["differences"]
        if (row["kind"], row["budget"], row["other"]) == ("presence", 0.098, "random")
    )
    number = next(row["questions"] for row in results["means"] if row["kind"] == "presence")
    return f"""### Measured, from few visual tokens

The share of right answers to {number} other held-out presence questions (`tests/data/pocket_heldout`), by the number of
visual tokens, of 256, that the language model sees. DivPrune chose them, or as many were taken at random (mean of
three draws) or evenly spaced.
At 0.098 DivPrune leads random by {100 * lead["difference"]:.1f} points (95 % interval {100 * lead["ci_low"]:.1f} to \
{100 * lead["ci_high"]:.1f}). `divprune-hf evaluate` on
{results["hardware"]}, {results["date"]}. docs/evidence.md of the project has all kinds of questions and the intervals.

{pruned_table(results)}

![Accuracy against prefill FLOPs](accuracy_vs_budget.png)
"""
