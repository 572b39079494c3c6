"""The console commands that measure time and memory, below `divprune-hf bench`.

Only names are imported here. torch and matplotlib come with the modules that the handlers import.
"""

from argparse import ArgumentParser, Namespace, _SubParsersAction

from divprune_hf.benchmarks.shapes import LOADING_SHAPES, SHAPES
from divprune_hf.cli import model_benchmark
from divprune_hf.cli.benchmark_flags import (
    add_benchmark,
    add_device_flags,
    add_flags,
    measure_and_keep,
    whole,
    width_and_height,
)
from divprune_hf.common.extras import check_plot_packages


# Visual tokens and kept ones. LLaVA-1.5: 576; LLaVA-1.6: 2880; video of 8, 32 and 128 frames: 1152, 4608, 18432.
SELECTION_SHAPES = ("576/56", "576/64", "576/192", "2880/282", "1152/115", "4608/461")
LONG_SHAPES = ("18432/1843",)
BUDGETS = (0.05, 0.098, 0.2)


def add_commands(commands: "_SubParsersAction[ArgumentParser]") -> None:
    """Add the command to a parser's sub-commands, and the benchmarks to it."""
    summary = "measure time and memory"
    about = f"{summary.capitalize()}; figures are medians. `bench MODEL` is short for `bench model MODEL`."
    bench = commands.add_parser("bench", help=summary, description=about)
    benchmarks = bench.add_subparsers(required=True, metavar="BENCHMARK")
    bench.otherwise = "model"  # type: ignore[attr-defined]  # all parsers here are of our class
    model_benchmark.add_command(benchmarks)

    selection = add_benchmark(benchmarks, "selection", run_selection, "the selection, beside the product it contains")
    add_flags(selection, repeats=9, batches="images (1 on a CPU, 1 8 32 on a GPU)", devices=("cpu", "cuda"))
    selection.add_argument(
        "--shapes", nargs="+", default=SELECTION_SHAPES, metavar="M/K", help="visual tokens / kept, per image"
    )
    selection.add_argument(
        "--long", nargs="*", default=LONG_SHAPES, metavar="M/K", help="shapes whose memory is measured"
    )

    generation = add_benchmark(
        benchmarks, "generation", run_generation, "prefill, throughput and memory, beside the stock model and an oracle"
    )
    generation.add_argument("--shape", required=True, choices=SHAPES, help="the sizes of the model")
    add_flags(generation, repeats=5, batches="prompts at a time (1 4 on a CPU, 1 8 32 on a GPU)")
    generation.add_argument("--png", metavar="FILE", help="draw the times to first token here (needs the extra `plot`)")
    generation.add_argument(
        "--budgets", type=float, nargs="+", default=BUDGETS, metavar="R", help="shares to keep (0.05 0.098 0.2)"
    )
    generation.add_argument(
        "--new-tokens", type=whole(2), metavar="N", help="tokens to generate (16 on a CPU, 64 on a GPU)"
    )
    generation.add_argument("--compiled", action="store_true", help="a static cache, and decoding compiled")

    loading = add_benchmark(benchmarks, "loading", run_loading, "loading a variant, beside its base")
    add_flags(loading, repeats=5)
    loading.add_argument("--shape", default="half-billion", choices=LOADING_SHAPES, help="the sizes of the model")

    prefill = add_benchmark(benchmarks, "prefill", run_prefill, "the parts of a pruned prefill")
    prefill.add_argument("--shape", required=True, choices=SHAPES, help="the sizes of the model")
    add_flags(prefill, repeats=41, batches="prompts at a time (1 4)")
    prefill.add_argument("--budget", type=float, default=0.098, metavar="R", help="share to keep (0.098)")
    prefill.add_argument("--compiled", action="store_true", help="the whole prefill compiled, beside the stock model's")

    preprocessing = add_benchmark(benchmarks, "preprocessing", run_preprocessing, "the processor, by image backend")
    preprocessing.add_argument("--shape", required=True, choices=SHAPES, help="the sizes of the model")
    add_flags(preprocessing, repeats=41)
    add_device_flags(preprocessing)
    preprocessing.add_argument("--budget", type=float, default=0.098, metavar="R", help="share to keep (0.098)")
    preprocessing.add_argument(
        "--picture", type=width_and_height, default=(640, 480), metavar="WxH", help="pixels of the picture (640x480)"
    )


def run_selection(options: Namespace) -> None:
    """Measure the selection."""
    from divprune_hf.benchmarks.measuring import device_named
    from divprune_hf.benchmarks.selection import SelectionRun, measure_selection

    device = device_named(options.device)
    run = SelectionRun(
        shapes=options.shapes,
        long=options.long,
        batches=options.batches or ((1, 8, 32) if device.type == "cuda" else (1,)),
        repeats=options.repeats,
        device=device,
        threads=options.threads,
    )
    measure_and_keep(lambda: measure_selection(run), options, device)


def run_generation(options: Namespace) -> None:
    """Measure prefill, throughput and memory; draw the times to first token."""
    if options.png is not None:
        check_plot_packages("divprune-hf bench generation --png", "matplotlib")
    from divprune_hf.benchmarks.generation import GenerationRun, draw_generation, measure_generation
    from divprune_hf.benchmarks.measuring import device_named
    from divprune_hf.inference.pictures import check_drawable

    if options.png is not None:
        check_drawable(options.png)
    device = device_named(options.device)
    on_gpu = device.type == "cuda"
    run = GenerationRun(
        shape=options.shape,
        batches=options.batches or ((1, 8, 32) if on_gpu else (1, 4)),
        budgets=options.budgets,
        repeats=options.repeats,
        new_tokens=options.new_tokens or (64 if on_gpu else 16),
        device=device,
        compiled=options.compiled,
    )
    figures = measure_and_keep(lambda: measure_generation(run), options, device)
    if options.png is not None:
        draw_generation(figures["rows"], options.png)


def run_loading(options: Namespace) -> None:
    """Measure loading."""
    from divprune_hf.benchmarks.loading import measure_loading
    from divprune_hf.benchmarks.measuring import device_named

    measure_and_keep(lambda: measure_loading(options.shape, options.repeats), options, device_named("cpu"))


def run_prefill(options: Namespace) -> None:
    """Measure the parts of a prefill."""
    from divprune_hf.benchmarks.measuring import device_named
    from divprune_hf.benchmarks.prefill import PrefillRun, measure_prefill

    device = device_named(options.device)
    run = PrefillRun(
        shape=options.shape,
        batches=options.batches or (1, 4),
        budget=options.budget,
        repeats=options.repeats,
        device=device,
    )
    if options.compiled:
        from divprune_hf.benchmarks.compiled_prefill import measure_compiled_prefill

        measure_and_keep(lambda: measure_compiled_prefill(run), options, device)
    else:
        measure_and_keep(lambda: measure_prefill(run), options, device)


def run_preprocessing(options: Namespace) -> None:
    """Measure the processor."""
    from divprune_hf.benchmarks.measuring import device_named
    from divprune_hf.benchmarks.preprocessing import PreprocessingRun, measure_preprocessing

    device = device_named(options.device)
    run = PreprocessingRun(
        shape=options.shape,
        picture=options.picture,
        budget=options.budget,
        repeats=options.repeats,
        device=device,
    )
    measure_and_keep(lambda: measure_preprocessing(run), options, device)
