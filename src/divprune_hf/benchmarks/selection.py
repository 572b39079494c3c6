"""What the selection costs, beside the Gram product it contains and beside the naive loop.

    divprune-hf bench selection [--json FILE] [--repeats N] [--threads N] [--device cpu|cuda]
        [--shapes M/K [M/K ...]] [--batches B [B ...]] [--long [M/K ...]]

Random features of LLaVA's width (4096): float32 on a CPU, bfloat16 on a GPU. The paths take turns within each repeat,
so that what else the machine does hits all of them alike; figures are medians, to be read as ratios to the Gram
product, not as times. Each path of a long video runs once, in a process of its own, which tells the memory it takes
beyond its input.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import torch

from divprune_hf.common.machine import write_run
from divprune_hf.remote_code import max_min_triton
from divprune_hf.remote_code.max_min_fast import select_diverse_tokens_of_images


WIDTH = 4096
# Visual tokens and kept ones. LLaVA-1.5: 576; LLaVA-1.6: 2880; video of 8, 32 and 128 frames: 1152, 4608, 18432.
SHAPES = ("576/56", "576/64", "576/192", "2880/282", "1152/115", "4608/461")
LONG = ("18432/1843",)


def gram(features, kept):
    """The matrix product alone, which any exact selection needs at least once."""
    for image in features:
        image @ image.T


def naive(features, kept):
    """The loop as one writes it down: every step looks at the distances to all picked tokens again."""
    for image in features:
        unit = image / image.norm(dim=1, keepdim=True)
        distances = 1 - unit @ unit.T
        distances.fill_diagonal_(float("inf"))
        picked = [int(distances.amin(dim=1).argmax())]
        for _ in range(kept - 1):
            smallest = distances[:, picked].amin(dim=1)
            smallest[picked] = -float("inf")
            picked.append(int(smallest.argmax()))


def select(features, kept):
    """What runs in a model: torch on a CPU, and on a GPU without Triton; Triton where there is one."""
    select_diverse_tokens_of_images(features, [kept] * len(features))


PATHS = {"gram": gram, "naive": naive, "torch": select, "triton": select}


def paths_on(device):
    has_triton = device == "cuda" and max_min_triton.can_launch_on(torch.device(device, 0))
    return [path for path in PATHS if path != "triton" or has_triton]


def random_features(tokens, batch, device):
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    torch.manual_seed(tokens)
    return [torch.randn(tokens, WIDTH, dtype=dtype, device=device) for _ in range(batch)]


def seconds_of(path, features, kept):
    """How long one path takes, by the clock of the device."""
    run = PATHS[path]
    use_triton = max_min_triton.can_launch_on if path == "triton" else lambda device: False
    with mock.patch.object(max_min_triton, "can_launch_on", use_triton):
        if not features[0].is_cuda:
            started = time.perf_counter()
            run(features, kept)
            return time.perf_counter() - started
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize()
        start.record()
        run(features, kept)
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1000


def rows_of(shape, batch, device, seconds, extra=None):
    """One row per path, from the seconds that each took."""
    tokens, kept = map(int, shape.split("/"))
    dtype = "float32" if device == "cpu" else "bfloat16"
    common = {"tokens": tokens, "kept": kept, "batch": batch, "device": device, "dtype": dtype}
    return [
        {
            **common,
            "path": path,
            "milliseconds": 1000 * seconds[path],
            "over_gram": seconds[path] / seconds["gram"],
            **(extra or {}).get(path, {}),
        }
        for path in seconds
    ]


def measure(shape, batch, device, repeats):
    """Medians of interleaved runs."""
    tokens, kept = map(int, shape.split("/"))
    features = random_features(tokens, batch, device)
    seconds = {path: [] for path in paths_on(device)}
    for repeat in range(repeats + 1):
        for path, runs in seconds.items():
            run_seconds = seconds_of(path, features, kept)
            if repeat > 0:  # the first round pays for set-up
                runs.append(run_seconds)
    return rows_of(shape, batch, device, {path: statistics.median(runs) for path, runs in seconds.items()})


def peak_bytes(device):
    """The most memory that this process has held. On Linux `ru_maxrss` would count what its parent held, too."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status")
    if status.exists():
        return 1024 * int(status.read_text().split("VmHWM:")[1].split()[0])
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def run_alone(path, shape, device):
    """Run one path once in this process; prints its seconds and the bytes it took beyond its input."""
    tokens, kept = map(int, shape.split("/"))
    seconds_of(path, random_features(100, 1, device), 10)  # what libraries take is not the selection's
    features = random_features(tokens, 1, device)
    before = peak_bytes(device)
    seconds = seconds_of(path, features, kept)
    print(json.dumps({"seconds": seconds, "bytes_beyond_input": peak_bytes(device) - before}))


def measure_alone(shape, device, threads):
    """The paths but for the naive one, which would take hours, each in a process of its own."""
    results = {}
    for path in paths_on(device):
        if path != "naive":
            command = [sys.executable, __file__, "--alone", path, "--shapes", shape, "--device", device]
            result = subprocess.run(
                [*command, "--threads", str(threads)], stdout=subprocess.PIPE, text=True, check=True
            )
            results[path] = json.loads(result.stdout)
    seconds = {path: result.pop("seconds") for path, result in results.items()}
    return rows_of(shape, 1, device, seconds, results)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", metavar="FILE", help="write the rows here")
    parser.add_argument("--repeats", type=int, default=9, metavar="N", help="runs of each path (9)")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="threads of torch (1)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--shapes", nargs="+", default=SHAPES, metavar="M/K", help="visual tokens / kept, per image")
    parser.add_argument("--batches", type=int, nargs="+", metavar="B", help="images (1 on a CPU, 1 8 32 on a GPU)")
    parser.add_argument("--long", nargs="*", default=LONG, metavar="M/K", help="shapes whose memory is measured")
    parser.add_argument("--alone", choices=PATHS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.alone:
        return run_alone(options.alone, options.shapes[0], options.device)
    rows = []

    def report(new_rows):
        for row in new_rows:
            beyond = f"{row['bytes_beyond_input'] / 1e6:.0f}" if "bytes_beyond_input" in row else ""
            line = "| {tokens} | {kept} | {batch} | {path} | {milliseconds:.2f} | {over_gram:.2f} |".format(**row)
            print(f"{line} {beyond} |", flush=True)
        rows.extend(new_rows)

    print("| tokens | kept | batch | path | ms | over Gram | MB beyond input |\n|---|---|---|---|---|---|---|")
    for batch in options.batches or ((1,) if options.device == "cpu" else (1, 8, 32)):
        for shape in options.shapes:
            report(measure(shape, batch, options.device, options.repeats))
    for shape in options.long:
        report(measure_alone(shape, options.device, options.threads))
    if options.json:
        write_run(options.json, {"rows": rows}, options.device)


if __name__ == "__main__":
    main()
