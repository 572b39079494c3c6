"""What a figure was measured on: hardware and versions, for the files that hold it."""

import json
import os
import platform
from datetime import date
from pathlib import Path

import torch
import transformers

from divprune_hf.version import __version__


def hardware(device: torch.device | str = "cpu") -> str:
    """The machine in words: its GPU where `device` is one, otherwise its CPU and number of cores."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    name = models[0] if models else platform.processor() or platform.machine()
    return f"{os.cpu_count()} CPU cores, {name}"


def versions() -> dict[str, str]:
    return {
        "divprune_hf": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def write_run(file, figures: dict, device: torch.device | str = "cpu") -> None:
    """Write `figures` as JSON, with the hardware, the versions, torch's threads and the date."""
    about = {"versions": versions(), "hardware": hardware(device), "threads": torch.get_num_threads()}
    text = json.dumps({**figures, **about, "date": str(date.today())}, indent=2)
    Path(file).write_text(text + "\n", encoding="utf-8")
