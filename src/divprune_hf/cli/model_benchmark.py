"""The console command `bench MODEL`: where the time of a model goes, or how it is served, at all tokens and at budgets.

Only names are imported here. torch and matplotlib come with the modules that the handlers import.
"""

from argparse import ArgumentParser, Namespace, _SubParsersAction
from pathlib import Path
from typing import Any

from divprune_hf.benchmarks.shapes import SHAPES
from divprune_hf.cli.benchmark_flags import add_benchmark, measure_and_keep, whole
from divprune_hf.common.extras import check_plot_packages


BUDGETS = (0.098, 0.25, 0.5)
BENCHMARKS = ("selection", "generation", "loading", "prefill", "preprocessing")
# The flags that one engine alone can follow, and what they are where they are not given.
OF_ENGINE: dict[str, dict[str, Any]] = {
    "transformers": {"batches": (1, 4), "new_tokens": 16, "device": None, "threads": None},
    "vllm": {"concurrency": (1, 4, 16, 64), "requests": None, "new_tokens": 16, "slo": 1000.0, "limit": 600.0},
}
REPEATS = {"transformers": 5, "vllm": 3}


def add_command(benchmarks: "_SubParsersAction[ArgumentParser]") -> None:
    """Add it to the benchmarks of a parser."""
    summary = "where a model's time goes, at all tokens and at budgets, beside the stock model"
    model = add_benchmark(benchmarks, "model", run_model, summary)
    model.usage = "divprune-hf bench [-h] [FLAGS] (MODEL | --shape SHAPE) [-- ARGUMENTS OF THE vLLM SERVER]"
    model.passes_on = True  # type: ignore[attr-defined]  # all parsers here are of our class
    model.add_argument("model", nargs="?", metavar="MODEL", help="a variant or a stock base: a folder, or a Hub id")
    model.add_argument("--shape", choices=SHAPES, help="in place of MODEL: random weights of these sizes")
    model.add_argument(
        "--engine", choices=OF_ENGINE, default="transformers", help="what runs it (transformers); vllm: as a server"
    )
    model.add_argument(
        "--budgets", type=float, nargs="+", default=BUDGETS, metavar="R", help="shares to keep (0.098 0.25 0.5)"
    )
    model.add_argument("--new-tokens", type=whole(1), metavar="N", help="tokens of an answer (16)")
    model.add_argument("--repeats", type=whole(1), metavar="N", help="rounds (5; with vllm 3)")
    model.add_argument("--json", metavar="FILE", help="write the figures here")
    model.add_argument("--png", metavar="FILE", help="draw the figures here (needs the extra `plot`)")

    alone = model.add_argument_group("with transformers")
    alone.add_argument("--batches", type=whole(1), nargs="+", metavar="B", help="prompts at a time (1 4)")
    alone.add_argument("--device", help="cuda where there is one, else cpu")
    alone.add_argument("--threads", type=whole(1), metavar="N", help="threads of torch on a CPU (torch's own number)")

    served = model.add_argument_group("with vllm")
    served.add_argument(
        "--concurrency", type=whole(1), nargs="+", metavar="C", help="clients, each with one request (1 4 16 64)"
    )
    served.add_argument(
        "--requests", type=whole(1), metavar="N", help="requests of a cell in a round (2 for each client, at least 4)"
    )
    served.add_argument(
        "--slo", type=float, metavar="MS", help="time to first token that a good request keeps, ms (1000)"
    )
    served.add_argument("--limit", type=float, metavar="S", help="no round starts after so many seconds (600)")


def run_model(options: Namespace) -> None:
    """Measure a model with an engine, and draw the figures."""
    if options.png is not None:
        check_plot_packages("divprune-hf bench MODEL --png", "matplotlib")
    check_model(options)
    use_flags_of_engine(options)
    if options.png is not None:
        from divprune_hf.inference.pictures import check_drawable

        check_drawable(options.png)
    (run_served if options.engine == "vllm" else run_stages)(options)


def check_model(options: Namespace) -> None:
    """Raise a `ValueError` unless one model is named, by a name that can be one."""
    if (options.model is None) == (options.shape is None):
        given = "neither" if options.model is None else "both"
        raise ValueError(f"Got {given} of MODEL and --shape, expected one of them: divprune-hf bench MODEL.")
    if options.model is not None and "/" not in options.model and not Path(options.model).is_dir():
        raise ValueError(
            f"Got an invalid choice: {options.model!r}, expected {', '.join(BENCHMARKS)}, or a MODEL: a folder that "
            "exists or the id of a Hub repo, ORG/NAME."
        )


def use_flags_of_engine(options: Namespace) -> None:
    """Set the defaults of the engine's flags; raise a `ValueError` where one was given that it cannot follow."""
    engine = options.engine
    for other, flags in OF_ENGINE.items():
        for name in flags:
            if name not in OF_ENGINE[engine] and getattr(options, name) is not None:
                flag = f"--{name.replace('_', '-')}"
                raise ValueError(f"Got {flag} with --engine {engine}, expected it with --engine {other} alone.")
    if engine != "vllm" and options.passed_on:
        raise ValueError(f"Got {' '.join(options.passed_on)!r} behind --, expected that with --engine vllm alone.")
    for name, default in {**OF_ENGINE[engine], "repeats": REPEATS[engine]}.items():
        if getattr(options, name) is None:
            setattr(options, name, default)


def run_stages(options: Namespace) -> None:
    """Measure the stages of a model in this process."""
    from divprune_hf.benchmarks.bench_model import ModelRun, draw_stages, measure_model
    from divprune_hf.benchmarks.measuring import device_named

    device = device_named(options.device)
    run = ModelRun(
        model=options.model,
        shape=options.shape,
        batches=options.batches,
        budgets=options.budgets,
        repeats=options.repeats,
        new_tokens=options.new_tokens,
        device=device,
    )
    figures = measure_and_keep(lambda: measure_model(run), options, device)
    if options.png is not None:
        draw_stages(figures, options.png)


def run_served(options: Namespace) -> None:
    """Measure a model in vLLM's server."""
    from divprune_hf.benchmarks.bench_serving import ServingRun, draw_served, measure_served
    from divprune_hf.benchmarks.measuring import device_named

    options.threads = None  # torch's threads here are not those of the server
    run = ServingRun(
        model=options.model,
        shape=options.shape,
        budgets=options.budgets,
        concurrency=options.concurrency,
        requests=options.requests,
        repeats=options.repeats,
        new_tokens=options.new_tokens,
        slo_ms=options.slo,
        limit_seconds=options.limit,
        arguments=options.passed_on,
    )
    figures = measure_and_keep(lambda: measure_served(run), options, device_named(None))
    if options.png is not None:
        draw_served(figures, options.png)
