"""What the benchmarks of the console command share: their flags, and how figures are measured and kept."""

from argparse import ArgumentParser, ArgumentTypeError, Namespace, _SubParsersAction
from collections.abc import Callable
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    import torch


def add_benchmark(
    benchmarks: "_SubParsersAction[ArgumentParser]", name: str, run: Callable[[Namespace], None], summary: str
) -> ArgumentParser:
    """Add one benchmark with its handler."""
    parser = benchmarks.add_parser(name, help=summary, description=f"Measure {summary}.")
    parser.set_defaults(run=run)
    return parser


def add_flags(
    parser: ArgumentParser, *, repeats: int, batches: str | None = None, devices: tuple[str, ...] | None = None
) -> None:
    """Add the flags that benchmarks share.

    Args:
        parser: the benchmark's.
        repeats: the default of --repeats.
        batches: the help of --batches; without it there is no such flag, and neither --device nor --threads.
        devices: the devices that can be named; by default any that torch knows.
    """
    parser.add_argument("--json", metavar="FILE", help="write the figures here")
    parser.add_argument("--repeats", type=whole(1), default=repeats, metavar="N", help=f"runs of each ({repeats})")
    if batches is not None:
        parser.add_argument("--batches", type=whole(1), nargs="+", metavar="B", help=batches)
        add_device_flags(parser, devices)


def add_device_flags(parser: ArgumentParser, devices: tuple[str, ...] | None = None) -> None:
    """Add --device, for those named or by default any that torch knows, and --threads."""
    parser.add_argument("--device", choices=devices, help="cuda where there is one, else cpu")
    parser.add_argument("--threads", type=whole(1), default=1, metavar="N", help="threads of torch on a CPU (1)")


def width_and_height(text: str) -> tuple[int, int]:
    """Return the two numbers of a text such as 640x480."""
    width, cross, height = text.partition("x")
    if not (cross and width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise ArgumentTypeError(f"Got {text!r}, expected WIDTHxHEIGHT in pixels, such as 640x480")
    return int(width), int(height)


def whole(smallest: int) -> Callable[[str], int]:
    """Return a type of argument: a whole number of at least `smallest`."""

    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < smallest:
            raise ArgumentTypeError(f"Got {text!r}, expected a whole number of at least {smallest}")
        return int(text)

    return parse


def measure_and_keep(
    measure: Callable[[], dict[str, Any]], options: Namespace, device: "torch.device"
) -> dict[str, Any]:
    """Measure with the threads that --threads names, if the benchmark has it, and write the figures for --json."""
    from contextlib import nullcontext

    from divprune_hf.benchmarks.measuring import torch_threads
    from divprune_hf.common.machine import write_run
    from divprune_hf.common.whole_file import check_writable

    if options.json is not None:
        check_writable(options.json)
    threads = getattr(options, "threads", None)
    with nullcontext() if threads is None else torch_threads(threads):
        figures = measure()
        if options.json is not None:
            write_run(options.json, figures, device)
    return figures
