"""A model in vLLM's OpenAI server under load: all visual tokens and budgets, at several numbers of clients.

    divprune-hf bench MODEL --engine vllm [--concurrency C ...] [--budgets R ...] [--requests N] [--new-tokens N]
        [--repeats N] [--slo MS] [--limit S] [--json FILE] [--png FILE] [-- ARGUMENTS OF THE SERVER]

The server runs on this machine, and nothing else is asked. Each client sends its next request when it has the answer to
the last one (closed loop), and every request has a new picture, so no cache helps. All cells take turns in each round.
Figures are medians of the rounds, with the lowest and the highest; times to first token are of all requests of a cell.
Goodput is the number of requests per second whose first token came within the limit of --slo.
"""

import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from divprune_hf.benchmarks.bench_model import check_budgets, spread
from divprune_hf.benchmarks.random_variant import write_random_variant
from divprune_hf.benchmarks.serving_load import Load, answer_all, request_bodies
from divprune_hf.benchmarks.vllm_server import running_server
from divprune_hf.common.markdown import markdown_table
from divprune_hf.inference.loading import read_config


ALL_TOKENS = 1.0
HEADER = ("clients", "kept", "requests/s", "first token, ms: p50", "p99", "goodput, 1/s", "requests/s over all tokens")


@dataclass(frozen=True)
class ServingRun:
    """Options of `divprune-hf bench MODEL --engine vllm`.

    Args:
        model: a variant: a folder or the id of a Hub repo, or None.
        shape: a key of `SHAPES` of the family "llava", where there is no model: random weights.
        budgets: shares of the visual tokens to keep.
        concurrency: numbers of clients.
        requests: requests of a cell in a round; by default two for each client, and at least four.
        repeats: rounds.
        new_tokens: tokens of an answer.
        slo_ms: the longest time to first token of a request that counts for goodput, in milliseconds.
        limit_seconds: no round starts after so many seconds.
        arguments: arguments of vLLM's server.
    """

    model: str | None
    shape: str | None
    budgets: Sequence[float]
    concurrency: Sequence[int]
    requests: int | None
    repeats: int
    new_tokens: int
    slo_ms: float
    limit_seconds: float
    arguments: Sequence[str]


def measure_served(run: ServingRun) -> dict[str, Any]:
    """Serve the model, ask it in rounds, and print a line of a Markdown table for each cell.

    Returns:
        dict of "model", "rows" (one per number of clients and budget) and "rounds", the number of them.

    Raises:
        ValueError: vLLM is not installed, an impossible budget, or a model that is no variant.
        OSError: the server ended, or a request failed.
    """
    budgets = [ALL_TOKENS, *reversed(check_budgets(run.budgets))]
    if find_spec("vllm") is None:
        raise ValueError("divprune-hf bench --engine vllm needs vLLM: pip install vllm")
    if run.model is not None:
        check_variant(run.model)
    with tempfile.TemporaryDirectory(prefix="divprune-bench-") as work:
        folder = Path(run.model) if run.model else write_random_variant(str(run.shape), Path(work))
        with running_server(str(folder), Path(work), run.arguments) as address:
            rounds = ask_in_rounds(run, address, budgets)
    rows = rows_of(run, rounds)
    print(markdown_table(HEADER, map(cells_of, rows), style="tight"))
    return {"model": run.shape or run.model, "new_tokens": run.new_tokens, "rounds": len(rounds), "rows": rows}


def check_variant(model: str) -> None:
    """Raise a `ValueError` unless a model is one that prunes."""
    if not hasattr(read_config(model, {})[0], "divprune_config"):
        raise ValueError(f"{model} is a stock base, expected a variant: divprune-hf convert {model} OUT")


def ask_in_rounds(run: ServingRun, address: tuple[str, int], budgets: Sequence[float]) -> list[dict[Any, Load]]:
    """Return the loads of each round, by number of clients and budget."""
    cells = [(clients, budget) for clients in dict.fromkeys(run.concurrency) for budget in budgets]
    for budget in budgets:  # what the first requests set up is not measured
        answer_all(address, request_bodies(2, budget, run, seed=-1), 2)
    began, rounds = time.monotonic(), []
    for number in range(run.repeats):
        if number and time.monotonic() - began > run.limit_seconds:
            break
        loads = {}
        first = number % len(cells)
        for cell, (clients, budget) in enumerate(cells[first:] + cells[:first]):
            num_requests = run.requests or max(4, 2 * clients)
            bodies = request_bodies(num_requests, budget, run, seed=number * len(cells) + cell)
            loads[clients, budget] = answer_all(address, bodies, clients)
        rounds.append(loads)
    return rounds


def rows_of(run: ServingRun, rounds: Sequence[dict[Any, Load]]) -> list[dict[str, Any]]:
    """Return one row per number of clients and budget."""
    rows = []
    for clients, budget in sorted(rounds[0], key=lambda cell: (cell[0], -cell[1])):
        loads = [loads[clients, budget] for loads in rounds]
        first_tokens = sorted(1000 * seconds for load in loads for seconds in load.first_tokens)
        over = [
            load.requests_per_second / loads_of_round[clients, ALL_TOKENS].requests_per_second
            for load, loads_of_round in zip(loads, rounds)
        ]
        rows.append(
            {
                "concurrency": clients,
                "budget": budget,
                "prompt_tokens": loads[0].prompt_tokens,
                "requests": len(first_tokens),
                "requests_per_second": spread([load.requests_per_second for load in loads]),
                "first_token_ms": {"p50": statistics.median(first_tokens), "p99": percentile(first_tokens, 99)},
                "goodput": spread([load.goodput(run.slo_ms / 1000) for load in loads]),
                "slo_ms": run.slo_ms,
                "over_all_tokens": spread(over),
            }
        )
    return rows


def percentile(ascending: Sequence[float], percent: int) -> float:
    """Return the smallest of some values, sorted, that so many percent of them do not exceed."""
    return ascending[-(-percent * len(ascending) // 100) - 1]


def cells_of(row: dict[str, Any]) -> list[str]:
    """Return the cells of a row of the table."""
    rate, over = row["requests_per_second"], row["over_all_tokens"]
    return [
        str(row["concurrency"]),
        f"{row['budget']:.1%}",
        f"{rate['median']:.2f} ({rate['low']:.2f} to {rate['high']:.2f})",
        f"{row['first_token_ms']['p50']:.0f}",
        f"{row['first_token_ms']['p99']:.0f}",
        f"{row['goodput']['median']:.2f}",
        f"{over['median']:.2f} ({over['low']:.2f} to {over['high']:.2f})",
    ]


def draw_served(figures: dict[str, Any], file: str | Path) -> None:
    """Draw requests per second against the number of clients, a line for each budget."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for budget in dict.fromkeys(row["budget"] for row in figures["rows"]):
        rows = [row for row in figures["rows"] if row["budget"] == budget]
        rates = [row["requests_per_second"] for row in rows]
        below, above = ([abs(rate[name] - rate["median"]) for rate in rates] for name in ("low", "high"))
        label = "all visual tokens" if budget == ALL_TOKENS else f"{budget:.1%} kept"
        clients, medians = [row["concurrency"] for row in rows], [rate["median"] for rate in rates]
        axes.errorbar(clients, medians, yerr=[below, above], marker="o", capsize=3, label=label)
    axes.set_xscale("log", base=2)
    axes.set_xlabel("clients")
    axes.set_ylabel("requests per second")
    axes.set_ylim(bottom=0)
    axes.legend()
    figure.savefig(file, dpi=150)
