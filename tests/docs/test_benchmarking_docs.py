"""docs/benchmarking.md says what the runs in docs/benchmarking/ hold, and what it claims of them is so."""

import re

from scripts.benchmarking_tables import PAGE, read, rendered


TEXT = PAGE.read_text(encoding="utf-8")


def test_the_tables_are_those_of_the_runs():
    assert rendered(TEXT) == TEXT
    for name in ("stages", "served"):
        run = read(name)
        words = " ".join(TEXT.split())
        assert run["hardware"].replace(", ", " of an ") in words and run["date"] in words
        assert all(run["versions"][package] in words for package in ("torch", "transformers"))


def test_pruned_wins_at_one_and_at_eight_clients():
    rows = {(row["concurrency"], row["budget"]): row for row in read("served")["rows"]}
    assert {clients for clients, _ in rows} == {1, 8}
    for clients in (1, 8):
        pruned, full = rows[clients, 0.098], rows[clients, 1.0]
        assert pruned["over_all_tokens"]["low"] > 1
        assert pruned["first_token_ms"]["p50"] < full["first_token_ms"]["p50"]
        assert full["prompt_tokens"] - pruned["prompt_tokens"] == 576 - 56


def test_the_commands_are_those_of_the_runs():
    for name in ("stages", "served"):
        (command,) = re.findall(rf"^divprune-hf bench .*--json docs/benchmarking/{name}\.json.*$", TEXT, re.MULTILINE)
        assert f"--shape {read(name)['model']} " in command
        assert f"--new-tokens {read(name)['new_tokens']} " in command
