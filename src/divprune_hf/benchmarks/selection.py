"""The time of the selection, beside the Gram product that it contains, the naive loop, and centred max-min.

    divprune-hf bench selection [--json FILE] [--repeats N] [--threads N] [--device cpu|cuda]
        [--shapes M/K [M/K ...]] [--batches B [B ...]] [--long [M/K ...]]

The features are random, of LLaVA's width (4096): float32 on a CPU, bfloat16 on a GPU. The paths take turns within each
repeat, so that other load on the machine hits all of them alike. Figures are medians, to be read as ratios to the Gram
product, not as times. Each path of a long video runs once, in a process of its own, which tells the memory it takes
beyond its input.
"""

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch

from divprune_hf.benchmarks.measuring import dtype_on, highest_bytes, torch_threads
from divprune_hf.common.markdown import markdown_row, markdown_table
from divprune_hf.common.own_process import run_python
from divprune_hf.remote_code import max_min_triton
from divprune_hf.remote_code.centered_fast import centred_and_weights
from divprune_hf.remote_code.max_min_fast import select_diverse_tokens_of_images


WIDTH = 4096
HEADER = ("tokens", "kept", "batch", "path", "ms", "over Gram", "MB beyond input")
ALONE = "import sys; from divprune_hf.benchmarks.selection import run_alone; run_alone(*sys.argv[1:])"


@dataclass(frozen=True)
class SelectionRun:
    """Options of `divprune-hf bench selection`.

    Args:
        shapes: "M/K", visual tokens of an image and how many of them are kept.
        long: shapes that are measured in processes of their own, with their memory.
        batches: numbers of images.
        repeats: runs of each path.
        device: the CPU or a GPU.
        threads: threads of torch in the processes for `long`.
    """

    shapes: Sequence[str]
    long: Sequence[str]
    batches: Sequence[int]
    repeats: int
    device: torch.device
    threads: int


def gram(features: Sequence[torch.Tensor], num_kept: int) -> None:
    """Compute the matrix product alone, which any exact selection needs at least once."""
    for image in features:
        image @ image.T


def naive(features: Sequence[torch.Tensor], num_kept: int) -> None:
    """Select by the plain loop: every step looks at the distances to all picked tokens again."""
    for image in features:
        unit = image / image.norm(dim=1, keepdim=True)
        distances = 1 - unit @ unit.T
        distances.fill_diagonal_(float("inf"))
        picks = [int(distances.amin(dim=1).argmax())]
        for _ in range(num_kept - 1):
            smallest = distances[:, picks].amin(dim=1)
            smallest[picks] = -float("inf")
            picks.append(int(smallest.argmax()))


def select(features: Sequence[torch.Tensor], num_kept: int) -> None:
    """Select as a model does."""
    select_diverse_tokens_of_images(list(features), [num_kept] * len(features))


def select_centered(features: Sequence[torch.Tensor], num_kept: int) -> None:
    """Select as a model with the selector `centered` does."""
    select_diverse_tokens_of_images(list(features), [num_kept] * len(features), prepare=centred_and_weights)


# "torch" and "triton" call the same function; `seconds_of` decides whether it may launch Triton.
PATHS: dict[str, Callable[[Sequence[torch.Tensor], int], None]] = {
    "gram": gram,
    "naive": naive,
    "torch": select,
    "triton": select,
    "centered": select_centered,
}


def measure_selection(run: SelectionRun) -> dict[str, Any]:
    """Measure all shapes, and print a line of a Markdown table for each result.

    Returns:
        dict of "rows": "milliseconds" by "tokens", "kept", "batch" and "path", and for long shapes
        "bytes_beyond_input".
    """
    rows: list[dict[str, Any]] = []

    def report(new_rows: Iterable[dict[str, Any]]) -> None:
        for row in new_rows:
            cells = [row[name] for name in ("tokens", "kept", "batch", "path")]
            beyond = f"{row['bytes_beyond_input'] / 1e6:.0f}" if "bytes_beyond_input" in row else ""
            print(markdown_row([*cells, f"{row['milliseconds']:.2f}", f"{row['over_gram']:.2f}", beyond]), flush=True)
            rows.append(row)

    for shape in (*run.shapes, *run.long):
        parse_shape(shape)
    print(markdown_table(HEADER, style="tight"))
    for batch in run.batches:
        for shape in run.shapes:
            report(measure(shape, batch, run.device, run.repeats))
    for shape in run.long:
        report(measure_alone(shape, run.device, run.threads))
    return {"rows": rows}


def parse_shape(shape: str) -> tuple[int, int]:
    """Return M and K of a shape "M/K"; a `ValueError` unless `1 <= K <= M`."""
    available, slash, kept = shape.partition("/")
    if not (slash and available.isdecimal() and kept.isdecimal() and 1 <= int(kept) <= int(available)):
        raise ValueError(f"Got shape {shape!r}, expected M/K, visual tokens and how many are kept, such as 576/56.")
    return int(available), int(kept)


def measure(shape: str, batch: int, device: torch.device, repeats: int) -> list[dict[str, Any]]:
    """Return the medians of interleaved runs, one row per path."""
    num_available, num_kept = parse_shape(shape)
    features = random_features(num_available, batch, device)
    seconds: dict[str, list[float]] = {path: [] for path in paths_on(device)}
    for repeat in range(repeats + 1):
        for path, runs in seconds.items():
            run_seconds = seconds_of(path, features, num_kept)
            if repeat > 0:  # the first round pays for set-up
                runs.append(run_seconds)
    return rows_of(shape, batch, device, {path: statistics.median(runs) for path, runs in seconds.items()})


def measure_alone(shape: str, device: torch.device, threads: int) -> list[dict[str, Any]]:
    """Return one row per path, each measured in a process of its own; the naive path would take hours."""
    seconds, memory = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for path in paths_on(device):
            if path != "naive":
                arguments = ["-c", ALONE, path, shape, str(device), str(threads)]
                printed = run_python(arguments, f"the process that measures {path} on {shape}", folder)
                result = json.loads(printed.splitlines()[-1])
                seconds[path] = result.pop("seconds")
                memory[path] = result
    return rows_of(shape, 1, device, seconds, memory)


def run_alone(path: str, shape: str, device: str, threads: str) -> None:
    """Run one path once in this process; print its seconds and the bytes that it took beyond its input, as JSON."""
    place = torch.device(device)
    num_available, num_kept = parse_shape(shape)
    with torch_threads(int(threads)):
        seconds_of(path, random_features(100, 1, place), 10)  # the memory of libraries is not the selection's
        features = random_features(num_available, 1, place)
        before = highest_bytes(place)
        seconds = seconds_of(path, features, num_kept)
        print(json.dumps({"seconds": seconds, "bytes_beyond_input": highest_bytes(place) - before}))


def paths_on(device: torch.device) -> list[str]:
    """Return the names of the paths that a device can run."""
    has_triton = device.type == "cuda" and max_min_triton.can_launch_on(torch.device("cuda", device.index or 0))
    return [path for path in PATHS if path != "triton" or has_triton]


def random_features(num_available: int, batch: int, device: torch.device) -> list[torch.Tensor]:
    """Return the features of each image, `(M, WIDTH)`, the same in every call."""
    generator = torch.Generator(device).manual_seed(num_available)
    shape = (num_available, WIDTH)
    return [torch.randn(shape, dtype=dtype_on(device), device=device, generator=generator) for _ in range(batch)]


def seconds_of(path: str, features: Sequence[torch.Tensor], num_kept: int) -> float:
    """Return the time of one path, by the clock of the device."""
    run = PATHS[path]
    use_triton = max_min_triton.can_launch_on if path in ("triton", "centered") else lambda device: False
    with mock.patch.object(max_min_triton, "can_launch_on", use_triton):
        if not features[0].is_cuda:
            started = time.perf_counter()
            run(features, num_kept)
            return time.perf_counter() - started
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize()
        start.record()
        run(features, num_kept)
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1000


def rows_of(
    shape: str,
    batch: int,
    device: torch.device,
    seconds: dict[str, float],
    memory: dict[str, dict[str, int]] | None = None,
) -> list[dict[str, Any]]:
    """Return one row per path.

    Args:
        shape: "M/K".
        batch: the number of images.
        device: where they were measured.
        seconds: the time of each path.
        memory: more columns by path.
    """
    num_available, num_kept = parse_shape(shape)
    dtype = str(dtype_on(device)).removeprefix("torch.")
    common = {"tokens": num_available, "kept": num_kept, "batch": batch, "device": device.type, "dtype": dtype}
    return [
        {
            **common,
            "path": path,
            "milliseconds": 1000 * seconds[path],
            "over_gram": seconds[path] / seconds["gram"],
            **(memory or {}).get(path, {}),
        }
        for path in seconds
    ]
