"""Hardware, versions and date of a measurement, for the JSON file that holds it."""

import json
import os
import platform
from datetime import date
from pathlib import Path
from typing import Any

import torch
import transformers

from divprune_hf.common.whole_file import write_whole
from divprune_hf.version import __version__


def hardware(device: torch.device | str = "cpu") -> str:
    """Return the machine in words: its GPU if `device` is one, otherwise its CPU and the number of cores."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    name = models[0] if models else platform.processor() or platform.machine()
    return f"{os.cpu_count()} CPU cores, {name}"


def versions() -> dict[str, str]:
    """Return the versions of this package, Python, torch and transformers."""
    return {
        "divprune_hf": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def write_run(
    file: str | Path,
    figures: dict[str, Any],
    device: torch.device | str = "cpu",
    *,
    with_threads: bool = True,
    indent: int = 2,
) -> dict[str, Any]:
    """Write figures as JSON, with the versions, the hardware and the date.

    Args:
        file: the file to write; it is whole or as it was.
        figures: the contents, which JSON can hold.
        device: where the figures were measured.
        with_threads: add the number of threads that torch uses.
        indent: blanks for each level of the JSON text.

    Returns:
        dict of everything that the file holds.
    """
    about: dict[str, Any] = {"versions": versions(), "hardware": hardware(device)}
    if with_threads:
        about["threads"] = torch.get_num_threads()
    run = {**figures, **about, "date": str(date.today())}
    write_whole(file, json.dumps(run, indent=indent) + "\n")
    return run
