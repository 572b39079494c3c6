"""Devices, threads and memory of a measurement."""

import contextlib
import ctypes
import gc
import statistics
import sys
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch


Result = TypeVar("Result")
Name = TypeVar("Name", bound=Hashable)
STATUS = Path("/proc/self/status")  # Linux only


def device_named(name: str | None) -> torch.device:
    """Return a device by its name; by default CUDA's where there is one, otherwise the CPU."""
    return torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))


def dtype_on(device: torch.device) -> torch.dtype:
    """Return the dtype that models are measured in: bfloat16 on a GPU, otherwise float32."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32


@contextlib.contextmanager
def torch_threads(number: int) -> Iterator[None]:
    """Let torch use a number of threads on a CPU, and as many as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def synchronize(device: torch.device) -> None:
    """Wait until a device has done everything that it was told to."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def medians(
    calls: Mapping[Name, Callable[[], Any]], repeats: int, device: torch.device, *, warm_up: int = 1
) -> dict[Name, float]:
    """Return the median milliseconds of calls that take turns, by their names; the first `warm_up` rounds set up."""
    seconds: dict[Name, list[float]] = {name: [] for name in calls}
    for repeat in range(repeats + warm_up):
        for name, call in calls.items():
            synchronize(device)
            started = time.perf_counter()
            call()
            synchronize(device)
            if repeat >= warm_up:
                seconds[name].append(time.perf_counter() - started)
    return {name: 1000 * statistics.median(values) for name, values in seconds.items()}


def peak_memory(call: Callable[[], Result], device: torch.device) -> tuple[int, Result]:
    """Return the bytes that a call needs at most beyond what was there before, and its result.

    On a GPU they are counted by torch; on a CPU they are the growth of resident memory (Linux only), which the
    allocator rounds.
    """
    gc.collect()
    synchronize(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        result = call()
        synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before, result
    ctypes.CDLL(None).malloc_trim(0)  # give back what earlier calls freed, or their peak would hide this one's
    Path("/proc/self/clear_refs").write_text("5")  # forget the highest value so far
    before = resident_bytes("VmRSS")
    result = call()
    return max(resident_bytes("VmHWM") - before, 0), result


def resident_bytes(name: str) -> int:
    """Return `VmRSS` (now) or `VmHWM` (at most) of this process, in bytes.

    Raises:
        OSError: the system has no such file, or the file no such line.
    """
    for line in STATUS.read_text().splitlines():
        if line.startswith(name + ":"):
            return 1024 * int(line.split()[1])
    raise OSError(f"{STATUS} has no {name}: peak memory on a CPU is measured on Linux only.")


def highest_bytes(device: torch.device) -> int:
    """Return the most memory that this process has held, in bytes: torch's on a GPU, otherwise resident memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if STATUS.exists():
        return resident_bytes("VmHWM")  # `ru_maxrss` would count what the parent process held, too
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
