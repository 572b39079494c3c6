"""Time and memory of one call, on a CPU and on a GPU."""

import ctypes
import gc
import time
from pathlib import Path

import torch


def seconds_of(call, device: torch.device) -> float:
    """How long a call takes, the device's work included."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def peak_memory(call, device: torch.device):
    """How many bytes a call needs at most beyond what was there before, and what it returns.

    On a GPU as torch counts it; on a CPU the growth of resident memory (Linux), which the allocator rounds.
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        result = call()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before, result
    ctypes.CDLL(None).malloc_trim(0)  # give back what earlier calls freed, or their peak would hide this one's
    Path("/proc/self/clear_refs").write_text("5")  # forget the highest value so far
    before = resident_bytes("VmRSS")
    result = call()
    return max(resident_bytes("VmHWM") - before, 0), result


def resident_bytes(name: str) -> int:
    """`VmRSS` (now) or `VmHWM` (at most) of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return 1024 * int(line.split()[1])
    raise OSError(f"/proc/self/status has no {name}: peak memory on a CPU is measured on Linux only.")


def cpu_name() -> str:
    """The processor, as /proc/cpuinfo calls it."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "unknown CPU"
