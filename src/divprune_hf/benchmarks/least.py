"""The least time that the parts of a prefill could take on a device: their arithmetic, at the speed of one big product.

Floating point operations are counted by torch. Of the selection, the products are half a matrix product, since it is
symmetric; each pick reads one row of distances.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any
from unittest import mock

import torch
from torch.utils.flop_counter import FlopCounterMode

from divprune_hf.benchmarks.measuring import synchronize


PRODUCT_SIZE = 2048  # rows and columns of the product that tells a device's speed
NUM_RUNS = 5


def attention_flops(query: Sequence[int], key: Sequence[int], *others: Any, **arguments: Any) -> int:
    """Return the operations of one attention on a CPU, which torch does not count: two products."""
    *images_and_heads, num_queries, width = query
    return 4 * torch.Size(images_and_heads).numel() * num_queries * key[-2] * width


COUNTED_TOO = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention_flops}


def flops_of_modules(modules: Mapping[str, torch.nn.Module], call: Callable[[], Any]) -> dict[str, int]:
    """Return the floating point operations of modules, by their names, while `call` runs."""
    flops: dict[str, int] = defaultdict(int)
    counter = FlopCounterMode(display=False, custom_mapping=COUNTED_TOO)

    def counted(name: str, forward: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            before = counter.get_total_flops()
            outputs = forward(*args, **kwargs)
            flops[name] += counter.get_total_flops() - before
            return outputs

        return run

    with ExitStack() as stack:
        for name, module in modules.items():
            stack.enter_context(mock.patch.object(module, "forward", counted(name, module.forward)))
        stack.enter_context(counter)
        call()
    return dict(flops)


def shortest(call: Callable[[], Any], device: torch.device) -> float:
    """Return the seconds of the quickest of some runs."""
    seconds = []
    for _ in range(NUM_RUNS):
        synchronize(device)
        started = time.perf_counter()
        call()
        synchronize(device)
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def flops_per_second(device: torch.device, dtype: torch.dtype) -> float:
    """Return how many floating point operations a device does per second in one big matrix product."""
    square = torch.ones(PRODUCT_SIZE, PRODUCT_SIZE, device=device, dtype=dtype)
    return 2 * PRODUCT_SIZE**3 / shortest(lambda: square @ square, device)


def entries_per_second(num_available: int, device: torch.device) -> float:
    """Return how many distances between M tokens a device reads per second, one row after another."""
    distances = torch.ones(num_available, num_available, device=device)
    return num_available**2 / shortest(lambda: distances.amin(dim=1), device)


def least_seconds(
    modules: Mapping[str, torch.nn.Module],
    call: Callable[[], Any],
    images: Sequence[torch.Tensor],
    counts: Sequence[int],
) -> dict[str, float]:
    """Return the least seconds of each part of a prefill.

    Args:
        modules: vision tower, projector and language model, by the names of their parts.
        call: runs one prefill.
        images: the features of each image, `(M, width)`, that the selection got in it.
        counts: how many tokens were kept of each image.

    Returns:
        dict of the names of `modules`, and "selection: products" and "selection: picks".
    """
    device, dtype = images[0].device, images[0].dtype
    speed = flops_per_second(device, dtype)
    seconds = {name: flops / speed for name, flops in flops_of_modules(modules, call).items()}
    halves = sum(len(image) * (len(image) + 1) * image.shape[1] for image in images)
    reading = entries_per_second(len(images[0]), device)
    picked_rows = sum(count * len(image) for count, image in zip(counts, images))
    return {**seconds, "selection: products": halves / speed, "selection: picks": picked_rows / reading}
