"""A server that has imported torch, and forks a Python process for each request: it starts in a tenth of a second.

    python warm_server.py LISTENER LIFELINE

Both are file descriptors: a listening Unix socket, and a pipe whose other end closes when the tests are over. Nothing
is imported before the first request comes. What is imported then reads no variable of the environment in which the
processes differ; so neither transformers nor huggingface_hub is, nor is the package.

When an environment comes for the second time, the server forks another one for it, which imports transformers too and
serves that environment from then on. The package is imported by no server. Each has one thread, since it forks.
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import select
import socket
import sys
import threading
import traceback
import types


PRELOADED = [
    "torch",
    "torch._dynamo",
    "torch._inductor",
    "torch.distributed.tensor",
    "torch.export",
    "torchvision.transforms.v2",
    "scipy.optimize",
    "sklearn.metrics",
    "PIL.Image",
    "jinja2",
    "yaml",
    "av",
]
PRELOADED_FOR_ENVIRONMENT = [
    "transformers",
    "transformers.pipelines",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.processing_auto",
    "transformers.models.clip.modeling_clip",
    "transformers.models.llama.modeling_llama",
    "transformers.models.llava.modeling_llava",
    "transformers.models.llava.processing_llava",
    "transformers.models.llava_next.modeling_llava_next",
]
# Variables of the environment in which requests differ, and which nothing above reads.
NOT_READ = ("PYTEST_", "TMPDIR", "COLUMNS", "LINES")
LONGEST_REQUEST = 2**20  # bytes


def serve(listener, lifeline):
    """Answer requests until the tests are over; return in a process that is to run one, with that request."""
    listening = socket.socket(fileno=listener)
    seen, servers = set(), {}
    while True:
        ready, _, _ = select.select([listening, lifeline], [], [])
        if lifeline in ready:
            sys.exit()
        connection, _ = listening.accept()
        if not seen:
            preload(PRELOADED)
        message, descriptors, _, _ = socket.recv_fds(connection, LONGEST_REQUEST, 3)
        request = json.loads(message)
        key = tuple(sorted(item for item in request["environment"].items() if not item[0].startswith(NOT_READ)))
        fresh = request["fresh"]
        if key in seen and key not in servers and not fresh:
            servers[key], requests = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            if os.fork() == 0:
                for unneeded in (listening, *servers.values()):
                    unneeded.close()
                os.close(lifeline)
                close(connection, descriptors)
                return serve_environment(requests, request["environment"])
            requests.close()
        seen.add(key)
        if key in servers and not fresh:
            socket.send_fds(servers[key], [message], [connection.fileno(), *descriptors])
        elif os.fork() == 0:
            listening.close()
            os.close(lifeline)
            return handle(connection, request, descriptors)
        close(connection, descriptors)


def serve_environment(requests, environment):
    """Answer the requests of one environment, as `serve` does for all."""
    os.environ.clear()
    os.environ.update(environment)
    preload(PRELOADED_FOR_ENVIRONMENT)
    while True:
        message, descriptors, _, _ = socket.recv_fds(requests, LONGEST_REQUEST, 4)
        if not message:
            sys.exit()
        connection = socket.socket(fileno=descriptors.pop(0))
        if os.fork() == 0:
            requests.close()
            return handle(connection, json.loads(message), descriptors)
        close(connection, descriptors)


def close(connection, descriptors):
    """Close what a child has taken over, and reap the children that have ended."""
    connection.close()
    for descriptor in descriptors:
        os.close(descriptor)
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def preload(names):
    for name in names:
        with contextlib.suppress(ImportError):  # where torchvision or PyAV is not installed
            importlib.import_module(name)
    threads = os.listdir("/proc/self/task")
    assert len(threads) == 1, f"{len(threads)} threads: a fork would have one of them alone"
    gc.freeze()


def handle(connection, request, descriptors):
    """Fork once more and tell the client the child's id and how it ended; return in the child, with the request."""
    child = os.fork()
    if child == 0:
        connection.close()
        for number, descriptor in enumerate(descriptors):
            os.dup2(descriptor, number)
            os.close(descriptor)
        return request
    for descriptor in descriptors:
        os.close(descriptor)
    connection.send(str(child).encode())
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with contextlib.suppress(OSError):  # the client may have stopped waiting
        connection.send(str(status).encode())
    os._exit(0)


def python_path():
    return [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]


# The module search path of every process here, but for its script or directory and its PYTHONPATH.
PATHS = [path for path in sys.path[1:] if path not in python_path()]


def take_over(environment, directory):
    """Be a process of this environment and working directory."""
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(directory)
    sys.path[:] = [*python_path(), *PATHS]
    importlib.invalidate_caches()


def execute(arguments):
    """Do what `python ARGUMENTS` does: `-c CODE`, `-m MODULE` or a script, each with arguments of its own."""
    first, *rest = arguments
    if first == "-m":
        sys.argv[:] = rest
        sys.path.insert(0, os.getcwd())
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
        return
    main = types.ModuleType("__main__")
    if first == "-c":
        code, name, sys.argv[:] = rest[0], "<string>", ["-c", *rest[1:]]
        sys.path.insert(0, "")
    else:
        name, sys.argv[:] = first, arguments
        with open(first, encoding="utf-8") as file:
            code = file.read()
        sys.path.insert(0, os.path.dirname(os.path.abspath(first)))
        main.__file__ = first
    sys.modules["__main__"] = main
    exec(compile(code, name, "exec"), main.__dict__)


def end(run):
    """Run a function; end as Python does, but without clearing each module, which would copy the server's memory."""
    code = 0
    try:
        run()
    except SystemExit as stop:
        code = stop.code
    except BaseException:
        traceback.print_exc()
        code = 1
    if code is not None and not isinstance(code, int):
        print(code, file=sys.stderr)
        code = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        code = code or 120
    os._exit((code or 0) & 0xFF)


if __name__ == "__main__":
    request = serve(int(sys.argv[1]), int(sys.argv[2]))
    take_over(request["environment"], request["directory"])
    end(lambda: execute(request["arguments"]))
