"""The memory that one call takes, on a CPU and on a GPU, and waiting for it."""

import ctypes
import gc
from pathlib import Path

import torch


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all that it was told to."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_memory(call, device: torch.device):
    """How many bytes a call needs at most beyond what was there before, and what it returns.

    On a GPU as torch counts it; on a CPU the growth of resident memory (Linux), which the allocator rounds.
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
    """`VmRSS` (now) or `VmHWM` (at most) of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return 1024 * int(line.split()[1])
    raise OSError(f"/proc/self/status has no {name}: peak memory on a CPU is measured on Linux only.")
