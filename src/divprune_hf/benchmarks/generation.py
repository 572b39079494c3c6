"""Time to first token, throughput and memory: stock transformers, divprune_hf, and an oracle, in one run.

    divprune-hf bench generation --shape tiny-cpu [--json FILE] [--png FILE] [--repeats N] [--batches B ...]
        [--budgets R ...] [--new-tokens N] [--device cpu|cuda] [--compiled] [--threads N]

The weights are random (pocket's are trained) and of true shape: what is measured is time, not answers. The oracle is
our model handed the indices to keep, tower, projector and all the rest the same: only the selection is free. The
three take turns within each repeat, so that what else the machine does hits all alike; figures are medians. Prefill is
the time of `generate` from images as tensors to the first new token, throughput that of the tokens after it. Memory is
the peak that one `generate` adds.
"""

import argparse
import contextlib
import json
import statistics
import time

import torch
import transformers
from transformers import CompileConfig, StoppingCriteria, StoppingCriteriaList

from divprune_hf.benchmarks.measuring import peak_memory, synchronize
from divprune_hf.benchmarks.shapes import NUM_TEXT_TOKENS, SHAPES, build_inputs, build_models
from divprune_hf.cards.flops import prompt_flops
from divprune_hf.common.machine import write_run
from divprune_hf.remote_code.budget import keep_count


BUDGETS = (0.05, 0.098, 0.2)
COLUMNS = ("shape", "batch", "budget", "path", "prefill_ms", "tokens_per_second", "peak_bytes", "kv_bytes")


class FirstToken(StoppingCriteria):
    """Stops nothing, and remembers when it was asked first: once the first new token is there."""

    def __init__(self):
        self.time = None

    def __call__(self, input_ids, scores, **kwargs):
        if self.time is None:
            synchronize(input_ids.device)
            self.time = time.perf_counter()
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


@contextlib.contextmanager
def handed(model, picks):
    """Let a model keep these indices of each image instead of selecting: the oracle."""
    model.model._select = lambda *arguments: picks
    try:
        yield
    finally:
        del model.model._select


def picks_of(model, inputs):
    """The indices that the model keeps of each image or video."""
    video = "pixel_values_videos" in inputs
    names = ("pixel_values_videos", "num_video_tokens_kept") if video else ("pixel_values", "image_sizes")
    arguments = {name: inputs[name] for name in (*names, "num_image_tokens_kept") if name in inputs}
    return (model.select_video_tokens if video else model.select_image_tokens)(**arguments)


def kv_bytes(cache) -> int:
    """What the keys and values of a cache take, in bytes."""
    return sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)


def measure(shape_name, models, batch, budget, options):
    """Three rows: stock, ours and the oracle take turns on prompts with the same images."""
    stock, ours = models
    shape = SHAPES[shape_name]
    place = (options.device, options.dtype)
    inputs = {"stock": build_inputs(shape, stock.config, batch, None, *place)}
    inputs["divprune"] = inputs["oracle"] = build_inputs(shape, ours.config, batch, budget, *place)
    picks = picks_of(ours, inputs["divprune"])
    settings = {"do_sample": False, "return_dict_in_generate": True, "pad_token_id": 0}
    if options.compiled:
        settings["cache_implementation"] = "static"  # on a GPU that is enough
        if options.device.type == "cpu":
            settings["compile_config"] = CompileConfig(mode="default")
            settings["compile_config"]._compile_all_devices = True

    def generate(path, num_new_tokens, first_token):
        model = stock if path == "stock" else ours
        with handed(ours, picks) if path == "oracle" else contextlib.nullcontext():
            return model.generate(
                **inputs[path],
                **settings,
                max_new_tokens=num_new_tokens,
                min_new_tokens=num_new_tokens,
                stopping_criteria=StoppingCriteriaList([first_token]),
            )

    def seconds_of(path):
        """To the first token, and from there to the last."""
        synchronize(options.device)
        first_token, started = FirstToken(), time.perf_counter()
        generate(path, options.new_tokens, first_token)
        synchronize(options.device)
        return first_token.time - started, time.perf_counter() - first_token.time

    paths = ("stock", "divprune", "oracle")
    seconds = {path: [] for path in paths}
    for repeat in range(options.repeats + 1):
        # Taking turns in another order each time: whoever comes second finds warmer caches.
        for path in paths[repeat % 3 :] + paths[: repeat % 3]:
            measured = seconds_of(path)
            if repeat > 0:  # the first round pays for set-up and compilation
                seconds[path].append(measured)
    rows = []
    for path in paths:
        first, others = (statistics.median(times) for times in zip(*seconds[path]))
        peak, output = peak_memory(lambda p=path: generate(p, 1, FirstToken()), options.device)
        rows.append(
            {
                "shape": shape_name,
                "batch": batch,
                "budget": budget,
                "path": path,
                "prefill_ms": 1000 * first,
                "tokens_per_second": batch * (options.new_tokens - 1) / others,
                "peak_bytes": peak,
                "kv_bytes": kv_bytes(output["cache" if "cache" in output else "past_key_values"]),
                "decoding": "compiled" if options.compiled else "eager",
            }
        )
    return rows


def ratios_of(rows, shape, text_config):
    """What the three rows of one batch and budget say, and what the FLOP model of the paper promises."""
    stock, ours, oracle = rows
    kept = keep_count(shape.num_visual_tokens, retention_ratio=ours["budget"])
    flops = [prompt_flops(text_config, NUM_TEXT_TOKENS, shape.num_visual_tokens, count) for count in (kept, None)]
    return {
        "prefill_over_oracle": ours["prefill_ms"] / oracle["prefill_ms"],
        "prefill_over_stock": ours["prefill_ms"] / stock["prefill_ms"],
        "stock_prefill_over_ours": stock["prefill_ms"] / ours["prefill_ms"],
        "tokens_per_second_over_stock": ours["tokens_per_second"] / stock["tokens_per_second"],
        "kv_bytes_over_stock": ours["kv_bytes"] / stock["kv_bytes"],
        "prompt_tokens_over_stock": (kept + NUM_TEXT_TOKENS) / (shape.num_visual_tokens + NUM_TEXT_TOKENS),
        "llm_flops_over_stock": flops[0] / flops[1],
    }


def draw(rows, file):
    """Bars of the time to first token, by batch and budget."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    groups = sorted({(row["batch"], row["budget"]) for row in rows})
    figure, axes = pyplot.subplots(figsize=(1.5 + 1.2 * len(groups), 3.5), layout="constrained")
    for offset, path in enumerate(("stock", "divprune", "oracle")):
        heights = [
            row["prefill_ms"]
            for group in groups
            for row in rows
            if (row["batch"], row["budget"]) == group and row["path"] == path
        ]
        axes.bar([i + 0.27 * (offset - 1) for i in range(len(groups))], heights, width=0.25, label=path)
    axes.set_xticks(range(len(groups)), [f"batch {batch}\n{budget:.1%}" for batch, budget in groups])
    axes.set_ylabel("time to first token, ms")
    axes.set_title(rows[0]["shape"])
    axes.legend()
    figure.savefig(file, dpi=150)
    pyplot.close(figure)


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", required=True, choices=SHAPES)
    parser.add_argument("--json", metavar="FILE", help="write rows and ratios here")
    parser.add_argument("--png", metavar="FILE", help="draw the times to first token here (needs matplotlib)")
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help="runs of each path (5)")
    parser.add_argument("--batches", type=int, nargs="+", metavar="B", help="1 8 32, on a CPU 1 4")
    parser.add_argument("--budgets", type=float, nargs="+", default=BUDGETS, metavar="R", help="shares to keep")
    parser.add_argument("--new-tokens", type=int, metavar="N", help="tokens to generate: 64, on a CPU 16")
    parser.add_argument("--device", help="cuda where there is one, else cpu")
    parser.add_argument("--compiled", action="store_true", help="a static cache, and decoding compiled")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="threads of torch on a CPU (1)")
    options = parser.parse_args()
    options.device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    on_gpu = options.device.type == "cuda"
    options.dtype = torch.bfloat16 if on_gpu else torch.float32
    options.batches = options.batches or ([1, 8, 32] if on_gpu else [1, 4])
    options.new_tokens = options.new_tokens or (64 if on_gpu else 16)
    return options


def main():
    options = parse()
    torch.set_num_threads(options.threads)
    transformers.logging.set_verbosity_error()
    models = build_models(SHAPES[options.shape], options.device, options.dtype)
    rows, ratios = [], {}
    print("| " + " | ".join(COLUMNS) + " |\n" + "|---" * len(COLUMNS) + "|")
    for budget in sorted(options.budgets):  # transformers makes a static cache no shorter than the one before
        for batch in options.batches:
            with torch.no_grad():
                three = measure(options.shape, models, batch, budget, options)
            for row in three:
                shown = [
                    f"{row[name]:.1f}" if isinstance(row[name], float) and name != "budget" else row[name]
                    for name in COLUMNS
                ]
                print("| " + " | ".join(map(str, shown)) + " |", flush=True)
            ratios[f"batch {batch}, budget {budget}"] = ratios_of(
                three, SHAPES[options.shape], models[0].config.text_config
            )
            rows += three
    print(
        "\n" + "\n".join(f"{name}: {json.dumps({k: round(v, 3) for k, v in r.items()})}" for name, r in ratios.items())
    )
    if options.json:
        write_run(options.json, {"rows": rows, "ratios": ratios}, options.device)
    if options.png:
        draw(rows, options.png)


if __name__ == "__main__":
    main()
