"""`run`, in place of `subprocess.run`, for Python processes that import torch: seconds of their start are saved.

The process is forked from `warm_server.py`. It has the environment, the arguments and the streams that are asked for,
and imports the package itself, and transformers too the first time, or with `fresh=True`. Not for tests of what a
start-up does or imports: those start Python.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.helpers import warm_server


ADDRESS = "TESTS_WARM_PYTHON"  # the environment variable with the server's address
# What Python, the C library and torch read as they start. A process that differs in one of these is started.
READ_AT_START = ("PYTHON", "LC_", "LANG", "LD_", "OMP_", "TORCH", "PYTORCH", "TRITON")
NOT_SO = ("PYTHONPATH", "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE", "PYTHONHASHSEED")


@contextlib.contextmanager
def server():
    """Run a server for the tests of this session and of the processes that they start."""
    if not sys.platform.startswith("linux"):  # elsewhere a process that has imported torch cannot be forked safely
        yield
        return
    folder = Path(tempfile.mkdtemp(prefix="warm-"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
        listening.bind(str(folder / "socket"))
        listening.listen(64)
        lifeline, held = os.pipe()
        os.environ[ADDRESS] = str(folder / "socket")
        process = subprocess.Popen(
            [sys.executable, warm_server.__file__, str(listening.fileno()), str(lifeline)],
            env={**os.environ, "PYTHONUNBUFFERED": ""},
            pass_fds=(listening.fileno(), lifeline),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(lifeline)
    try:
        yield
    finally:
        os.close(held)
        process.wait(timeout=60)
        shutil.rmtree(folder)


def run(command, *, env=None, cwd=None, stdin=None, stdout=None, stderr=None, capture_output=False, text=False,
        timeout=600, fresh=False):  # fmt: skip
    """Run `command`, which begins with `sys.executable`; arguments and result are those of `subprocess.run`."""
    environment = dict(os.environ if env is None else env)
    if capture_output:
        stdout = stderr = subprocess.PIPE
    if ADDRESS not in os.environ or read_at_start(environment) != read_at_start(os.environ):
        return subprocess.run(
            command, env=environment, cwd=cwd, stdin=stdin, stdout=stdout, stderr=stderr, text=text, timeout=timeout
        )
    assert command[0] == sys.executable
    with contextlib.ExitStack() as stack:
        streams = [stream_of(given, number, stack) for number, given in enumerate((stdin, stdout, stderr))]
        request = {
            "arguments": [os.fsdecode(argument) for argument in command[1:]],
            "environment": environment,
            "directory": os.fspath(cwd or os.getcwd()),
            "fresh": fresh,
        }
        code = ask(json.dumps(request), streams, timeout)
        outputs = [
            read(stream, text) if given == subprocess.PIPE else None
            for given, stream in zip((stdout, stderr), streams[1:])
        ]
    return subprocess.CompletedProcess(command, code, *outputs)


def read_at_start(environment):
    return {
        name: value
        for name, value in environment.items()
        if name.startswith(READ_AT_START) and name not in NOT_SO and value
    }


def stream_of(given, number, stack):
    """The descriptor that a stream of the process is to be; a pipe to be read in the end is a file."""
    if given is None:
        return number
    if given == subprocess.PIPE:
        return stack.enter_context(tempfile.TemporaryFile()).fileno()
    if given == subprocess.DEVNULL:
        return stack.enter_context(open(os.devnull, "r+b")).fileno()
    return given if isinstance(given, int) else given.fileno()


def read(descriptor, text):
    with open(os.dup(descriptor), "rb") as file:
        file.seek(0)
        content = file.read()
    return content.decode().replace("\r\n", "\n") if text else content


def ask(request, streams, timeout):
    """Send a request to the server; return the exit code of its process, or minus the number of a signal."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.settimeout(timeout)
        connection.connect(os.environ[ADDRESS])
        socket.send_fds(connection, [request.encode()], streams)
        process = connection.recv(64)
        assert process, "the server of warm processes has ended"
        try:
            return int(connection.recv(64))
        except TimeoutError:
            os.kill(int(process), signal.SIGKILL)
            raise subprocess.TimeoutExpired("a warm process", timeout) from None
