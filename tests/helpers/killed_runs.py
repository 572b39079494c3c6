"""Runs of `divprune-hf convert` that are killed: a script that forks, so that a run costs milliseconds.

    python -m tests.helpers.killed_runs FOLDER MODE SEED NUM_KILLS

FOLDER holds `base`. MODE is `exchange`, or `renames`, which is what a system does that cannot exchange two folders.
Prints a line of JSON per run: what was killed, when, and how it looked afterwards. The process has one thread, since it
forks.
"""

import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

from tqdm import tqdm

import divprune_hf.cli.parser  # noqa: F401  once, for all processes
import divprune_hf_console
from divprune_hf.publishing import atomic_folder
from divprune_hf.publishing.atomic_folder import leftovers
from divprune_hf.publishing.convert import convert_checkpoint
from tests.helpers.folders import file_hashes


SIGNALS = {"SIGKILL": signal.SIGKILL, "SIGTERM": signal.SIGTERM, "SIGINT": signal.SIGINT}
# What Python tells an audit hook of, before it happens, while a folder is made, exchanged and removed.
STEPS = ("open", "os.", "shutil.", "fcntl.", "ctypes.")


class Runs:
    """A folder with a base, and runs there that make `out` of it."""

    def __init__(self, folder, mode):
        self.folder, self.base, self.out = folder, folder / "base", folder / "out"
        if mode == "renames":
            atomic_folder.exchange = lambda one, other: False
        self.errors = folder / "stderr"

    def start(self, num_tokens, prepare=lambda: None, overwrite=True):
        """Fork a run like that of the console; return its process."""
        assert len(os.listdir("/proc/self/task")) == 1, "a fork of several threads can wait for ever"
        process = os.fork()
        if process:
            return process
        os.dup2(os.open(self.errors, os.O_CREAT | os.O_WRONLY | os.O_TRUNC), 2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        arguments = ["convert", str(self.base), str(self.out), "--num-tokens", str(num_tokens)]
        sys.argv[1:] = [*arguments, *["--overwrite"] * overwrite]
        code = 70
        try:
            prepare()
            code = divprune_hf_console.main()
        except SystemExit as stop:
            code = stop.code
        except divprune_hf_console.Stopped as stopped:
            code = 128 + stopped.number
        finally:
            os._exit(code)

    def wait(self, process):
        """How a run ended: its exit code, or minus the number of a signal."""
        return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])

    def run(self, num_tokens, **arguments):
        return self.wait(self.start(num_tokens, **arguments))

    def forget(self):
        """Leave nothing but the base."""
        for path in self.folder.iterdir():
            if path.name != "base":
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def beside(self):
        """What lies beside the base and OUT."""
        return sorted(path.name for path in self.folder.iterdir() if path.name not in ("base", "out", "stderr"))


def at_step(number, sent):
    """A function that has the process send itself a signal before its step of this number, counted from 0."""
    steps_left = [number]

    def hook(event, arguments):
        if event.startswith(STEPS):
            steps_left[0] -= 1
            if steps_left[0] == -1:
                os.kill(os.getpid(), sent)

    return lambda: sys.addaudithook(hook)


def steps_of(runs):
    """The names of the steps of a run that replaces a variant."""
    reader, writer = os.pipe()

    def prepare():
        def hook(event, arguments):
            if event.startswith(STEPS):
                os.write(writer, f"{event}\n".encode())

        sys.addaudithook(hook)

    runs.run(5)
    assert runs.run(5, prepare=prepare) == 0
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        return pipe.read().decode().split()


def measure(folder, mode, seed, num_kills, kept):
    """Kill runs at random moments and before random steps; print how each looked, and its re-run.

    `kept` is an empty folder for the variants that whole runs made: killed runs are to replace copies of them.
    """
    runs, draw = Runs(folder, mode), random.Random(seed)
    convert_checkpoint(runs.base, runs.out)  # what is imported at the first time is so once, for all processes
    base = file_hashes(runs.base)
    whole = {}
    for num_tokens in (3, 5):
        runs.forget()
        assert runs.run(num_tokens) == 0
        whole[num_tokens] = file_hashes(runs.out)
        shutil.copytree(runs.out, kept / str(num_tokens))
    durations = []
    for _ in range(3):
        began = time.monotonic()
        assert runs.run(5) == 0
        durations.append(time.monotonic() - began)
    duration = min(durations)
    steps = steps_of(runs)
    # Surely killed: before and after each step in which folders change places.
    swaps = [i for i, step in enumerate(steps) if step in ("os.rename", "ctypes.dlsym", "shutil.rmtree")]
    planned = [(3, name, step) for step in sorted({*swaps, *(i + 1 for i in swaps)}) for name in ("SIGKILL", "SIGTERM")]
    number = num_killed = 0
    while num_killed < num_kills or planned:
        runs.forget()
        old, name, step = planned.pop() if planned else (draw.choice([None, 3]), draw.choice(sorted(SIGNALS)), None)
        if old:
            shutil.copytree(kept / str(old), runs.out)
        if step is not None or number % 2:
            step = draw.randrange(len(steps)) if step is None else step
            moment = f"step {step} of {len(steps)}"
            code = runs.run(5, prepare=at_step(step, SIGNALS[name]))
        else:
            moment = f"{(delay := draw.uniform(0, duration)):.4f} s of {duration:.4f} s"
            process = runs.start(5)
            time.sleep(delay)
            os.kill(process, SIGNALS[name])
            code = runs.wait(process)
        seen = file_hashes(runs.out) if runs.out.exists() else None
        number, num_killed = number + 1, num_killed + (code != 0)
        report = {
            "number": number,
            "old": old,
            "signal": name,
            "moment": moment,
            "code": code,
            "out": next((key for key, hashes in whole.items() if hashes == seen), "none" if seen is None else "broken"),
            "beside": runs.beside(),
            "set_aside": [path.name for path in leftovers(runs.out, "previous")],
        }
        # A run that must not replace anything: it puts back what was set aside, and makes OUT where there was none.
        report["second_code"] = runs.run(5, overwrite=False)
        seen = file_hashes(runs.out) if runs.out.exists() else None
        report["second_out"] = next((key for key, hashes in whole.items() if hashes == seen), "broken")
        said = runs.errors.read_text(encoding="utf-8")
        report["third_code"] = runs.run(5)
        said += runs.errors.read_text(encoding="utf-8")
        report["named"] = [name for name in report["beside"] if name in said]
        report["beside_in_the_end"] = runs.beside()
        report["whole_in_the_end"] = file_hashes(runs.out) == whole[5]
        report["base_untouched"] = file_hashes(runs.base) == base
        print(json.dumps(report), flush=True)


if __name__ == "__main__":
    divprune_hf_console.on_signals(divprune_hf_console.leave)  # forked processes begin with it
    # The lock of tqdm's own is a semaphore that forked processes share: one that is killed while it holds it never
    # gives it back, and all later ones would wait for it.
    tqdm.set_lock(threading.RLock())
    tqdm.monitor_interval = 0  # no thread that watches progress bars: a fork could inherit the lock that it holds
    with tempfile.TemporaryDirectory() as kept:
        measure(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), Path(kept))
