"""What README, card and docs/evidence.md say is what docs/evidence/pocket-llava/results.json holds."""

import json
from pathlib import Path

from divprune_hf.common.pocket_llava import pocket_llava
from divprune_hf.evaluation.report import accuracy_tables
from scripts.training.pocket_llava.evidence import RESULTS, pruned_section


ROOT = Path(__file__).parents[2]
EVIDENCE = (ROOT / "docs" / "evidence.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
RUN = json.loads(RESULTS.read_text(encoding="utf-8"))


def test_the_tables_of_the_docs_are_those_of_the_run():
    for block in accuracy_tables(RUN).strip().split("\n\n"):
        assert block in EVIDENCE
    assert RUN["hardware"] in EVIDENCE and RUN["date"] in EVIDENCE


def test_the_card_has_the_figures_of_the_run():
    assert pruned_section().strip() in (pocket_llava() / "README.md").read_text(encoding="utf-8")
    figures = [folder / "accuracy_vs_budget.png" for folder in (RESULTS.parent, pocket_llava())]
    assert figures[0].read_bytes() == figures[1].read_bytes()


def test_the_target_is_met_on_presence_questions():
    """At 0.098: at least 96 % of the unpruned accuracy, and at least 12 points above random."""
    (mean,) = (r for r in RUN["means"] if (r["kind"], r["budget"], r["selector"]) == ("presence", 0.098, "max_min"))
    (lead,) = (r for r in RUN["differences"] if (r["kind"], r["budget"], r["other"]) == ("presence", 0.098, "random"))
    assert mean["questions"] == 2000 and mean["of_unpruned"] >= 0.96 and lead["difference"] >= 0.12


def test_the_tables_of_positions_are_those_of_their_run():
    run = json.loads((RESULTS.parent / "positions" / "results.json").read_text(encoding="utf-8"))
    for block in accuracy_tables(run).strip().split("\n\n"):
        assert block in EVIDENCE
    assert run["hardware"] in EVIDENCE and run["date"] in EVIDENCE
    (of_place,) = (
        row
        for row in run["means"]
        if (row["kind"], row["budget"], row["method"]) == ("position", 0.098, "max_min original")
    )
    assert f"the last figure to {of_place['accuracy']:.1%}" in (ROOT / "README.md").read_text().replace("\n", " ")


def test_the_tables_of_other_methods_are_those_of_their_run():
    run = json.loads((RESULTS.parent / "methods" / "results.json").read_text(encoding="utf-8"))
    named = {"max_min", "centered", "merge", "pool", "prumerge", "max_min_l1", "max_min_l2", "max_min_random"}
    assert {row["selector"] for row in run["means"]} == named
    pooled = [row["kept_tokens"] for row in run["means"] if (row["selector"], row["kind"]) == ("pool", "presence")]
    assert pooled == [9, 25, 49, 81, 121, 256]
    for block in accuracy_tables(run).strip().split("\n\n"):
        assert block in EVIDENCE
    assert run["hardware"] in EVIDENCE and run["date"] in EVIDENCE


def test_the_tables_at_equal_flops_are_those_of_their_run():
    run = json.loads((RESULTS.parent / "flops" / "results.json").read_text(encoding="utf-8"))
    for block in accuracy_tables(run).strip().split("\n\n"):
        assert block in EVIDENCE
    assert run["hardware"] in EVIDENCE and run["date"] in EVIDENCE
    kinds = ("presence", "position", "counting")
    figures = {(row["method"], row["kind"], row["budget"]): row for row in run["means"]}
    names = {"`max_min`": "max_min", "`centered`": "centered", "`random`": "random", "`pool`": "pool"}
    names |= {"PruMerge": "prumerge", "FastV": "fastv", "VTW": "vtw", "FitPrune": "fitprune"}
    for text, method in names.items():
        (line,) = [line for line in README.splitlines() if line.startswith(f"| {text} ")]
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        rows = [figures[method, kind, "40%"] for kind in kinds]
        assert cells[-3:] == [f"{100 * row['accuracy']:.1f}" for row in rows]
        share = round(100 * rows[0]["flop_ratio"])
        assert (f"({share} % of the FLOPs)" in cells[0]) == (share != 40)
    assert run["date"] in README


def test_the_table_of_layers_is_that_of_its_run():
    run = json.loads((RESULTS.parent / "layers" / "results.json").read_text(encoding="utf-8"))
    labels = {"max_min": "0, compact", "max_min original": "0, original positions"}
    lines = {}
    for row in run["means"]:
        if row["budget"] != 1.0:
            label = labels.get(row["method"], str(row["layer"]))
            start = f"| {row['budget']} | {label} | {row['kept_tokens']:.0f} |"
            low, value, high = (f"{100 * row[name]:.1f}" for name in ("ci_low", "accuracy", "ci_high"))
            lines[start] = f"{lines.get(start, start)} {value} ({low} to {high}) |"
            assert abs(row["flop_ratio"] - float(row["budget"][:-1]) / 100) < 0.004
    assert len(lines) == 10 and all(f"{line}\n" in EVIDENCE for line in lines.values())
