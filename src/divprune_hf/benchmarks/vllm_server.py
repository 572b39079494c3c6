"""vLLM's OpenAI server in a process of its own, on this machine alone."""

import contextlib
import http.client
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path


START_SECONDS = 600
# vLLM 0.32 takes a budget of a request only with this flag; releases before do not know it.
FLAG = "--trust-request-mm-kwargs"


@contextlib.contextmanager
def running_server(model: str, folder: Path, arguments: Sequence[str]) -> Iterator[tuple[str, int]]:
    """Start a server, wait until it answers, and end it afterwards; yields its host and port.

    Args:
        model: a variant: a folder or the id of a Hub repo.
        folder: where the server's log goes.
        arguments: more arguments of the server.

    Raises:
        OSError: the server ended, or does not answer within ten minutes; with the last lines of its log.
    """
    host, port = "127.0.0.1", free_port()
    flags = ["--limit-mm-per-prompt", '{"image": 1}', *([FLAG] if knows_flag() else [])]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model, *flags, *arguments]
    environment = {**os.environ, "VLLM_NO_USAGE_STATS": "1"}
    log = folder / "server.log"
    with log.open("w") as printed:
        process = subprocess.Popen(
            [*command, "--host", host, "--port", str(port)],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=printed,
            stderr=subprocess.STDOUT,
        )
        try:
            wait_until_ready(process, (host, port), log)
            yield host, port
            if process.poll() is not None:
                raise OSError(f"vLLM's server ended: {last_lines(log)}")
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=30)
            process.kill()
            process.wait()


def wait_until_ready(process: "subprocess.Popen[bytes]", address: tuple[str, int], log: Path) -> None:
    """Wait until a server answers that it is well."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise OSError(f"vLLM's server did not start: {last_lines(log)}")
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection = http.client.HTTPConnection(*address, timeout=5)
            connection.request("GET", "/health")
            if connection.getresponse().status == 200:
                return
        time.sleep(1)
    raise OSError(f"vLLM's server does not answer after {START_SECONDS} s: {last_lines(log)}")


def last_lines(log: Path) -> str:
    """Return the end of a log."""
    return " ".join(log.read_text(errors="replace").splitlines()[-3:])


def free_port() -> int:
    """Return a port of this machine that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def knows_flag() -> bool:
    """Tell whether this vLLM has the flag, from the file of its flags: importing it takes many seconds."""
    vllm = find_spec("vllm")
    folder = Path(str(vllm and vllm.origin)).parent / "entrypoints"
    files = [path for path in folder.rglob("cli_args.py") if path.is_file()]
    return any("trust_request_mm_kwargs" in path.read_text(encoding="utf-8") for path in files)
