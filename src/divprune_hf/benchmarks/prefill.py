"""Where the time of a pruned prefill goes: vision tower, projector, the parts of the selection, language model.

    divprune-hf bench prefill --shape pocket [--json FILE] [--repeats N] [--batches B ...] [--budget R]
        [--device cpu|cuda] [--threads N]

Times are medians, taken inside `generate` up to the first new token. There a selection finds the caches as the vision
tower left them; "selection by itself" is the same selection, called in a loop. On a GPU the clock waits for the device
wherever a part begins or ends, so what would overlap does not.
"""

import argparse
import contextlib
import statistics
import time
from collections import defaultdict
from unittest import mock

import torch
import transformers

from divprune_hf.benchmarks.measuring import synchronize
from divprune_hf.benchmarks.shapes import SHAPES, build_inputs, build_models
from divprune_hf.common.machine import write_run
from divprune_hf.remote_code import fast_distances, max_min_fast


MODULES = {"vision tower": "vision_tower", "projector": "multi_modal_projector", "language model": "language_model"}
# What is called, and where it is looked up.
FUNCTIONS = {
    "selection": (max_min_fast, "select_diverse_tokens_of_images"),
    "distances": (max_min_fast, "cosine_distances"),
    "products": (fast_distances, "gram_matrices"),
    "picks": (max_min_fast, "pick_greedily"),
    "picks with Triton": (max_min_fast, "pick_with_triton"),
}


class Clock:
    """Seconds by name, from one `take` to the next."""

    def __init__(self, device):
        self.device, self.seconds = device, defaultdict(float)

    def now(self):
        synchronize(self.device)
        return time.perf_counter()

    def timed(self, name, function):
        def call(*args, **kwargs):
            started = self.now()
            result = function(*args, **kwargs)
            self.seconds[name] += self.now() - started
            return result

        return call

    def take(self):
        seconds, self.seconds = self.seconds, defaultdict(float)
        return seconds


def parts_of(seconds):
    """What the clock saw, as parts that add up to the whole."""
    picks = seconds["picks"] + seconds["picks with Triton"]
    towers = {name: seconds[name] for name in MODULES}
    selection = {
        "selection: scaled rows and their products": seconds["products"],
        "selection: products to distances": seconds["distances"] - seconds["products"],
        "selection: picks": picks,
        "selection: checks and sorting": seconds["selection"] - seconds["distances"] - picks,
    }
    rest = seconds["prefill"] - sum(towers.values()) - seconds["selection"]
    return {**towers, **selection, "all else": rest, "prefill": seconds["prefill"]}


def measure(shape, model, batch, options):
    """Median milliseconds of each part."""
    inputs = build_inputs(SHAPES[shape], model.config, batch, options.budget, options.device, options.dtype)
    clock, runs, features = Clock(options.device), defaultdict(list), []

    def keep_features(images, *arguments):
        features[:] = [images, *arguments]
        return select(images, *arguments)

    select = max_min_fast.select_diverse_tokens_of_images
    generate = clock.timed("prefill", model.generate)
    with contextlib.ExitStack() as stack:
        for name, attribute in MODULES.items():
            module = getattr(model.model, attribute)
            stack.enter_context(mock.patch.object(module, "forward", clock.timed(name, module.forward)))
        for name, (place, function) in FUNCTIONS.items():
            called = keep_features if name == "selection" else getattr(place, function)
            stack.enter_context(mock.patch.object(place, function, clock.timed(name, called)))
        for repeat in range(options.repeats + 1):
            clock.take()
            generate(**inputs, do_sample=False, max_new_tokens=1, pad_token_id=0)
            for name, seconds in parts_of(clock.take()).items() if repeat > 0 else ():  # the first pays for set-up
                runs[name].append(seconds)
    alone = clock.timed("alone", select)
    for _ in range(options.repeats):
        alone(*features)
        runs["selection by itself"].append(clock.take()["alone"])
    return {name: 1000 * statistics.median(seconds) for name, seconds in runs.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", required=True, choices=SHAPES)
    parser.add_argument("--json", metavar="FILE", help="write the figures here")
    parser.add_argument("--repeats", type=int, default=41, metavar="N", help="prefills of each batch (41)")
    parser.add_argument("--batches", type=int, nargs="+", default=(1, 4), metavar="B")
    parser.add_argument("--budget", type=float, default=0.098, metavar="R", help="share to keep (0.098)")
    parser.add_argument("--device", help="cuda where there is one, else cpu")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="threads of torch on a CPU (1)")
    options = parser.parse_args()
    options.device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    options.dtype = torch.bfloat16 if options.device.type == "cuda" else torch.float32
    torch.set_num_threads(options.threads)
    transformers.logging.set_verbosity_error()
    _, model = build_models(SHAPES[options.shape], options.device, options.dtype)
    with torch.no_grad():
        rows = [
            {
                "shape": options.shape,
                "batch": batch,
                "budget": options.budget,
                "part": part,
                "milliseconds": milliseconds,
            }
            for batch in options.batches
            for part, milliseconds in measure(options.shape, model, batch, options).items()
        ]
    print("| shape | batch | budget | part | ms |\n|---|---|---|---|---|")
    for row in rows:
        print("| {shape} | {batch} | {budget} | {part} | {milliseconds:.2f} |".format(**row))
    if options.json:
        write_run(options.json, {"rows": rows}, options.device)


if __name__ == "__main__":
    main()
