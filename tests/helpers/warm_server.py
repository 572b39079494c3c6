"""A server that has imported torch, and forks a Python process for each request: it starts in a tenth of a second.

    python warm_server.py LISTENER LIFELINE

Both are file descriptors: a listening Unix socket, and a pipe whose other end closes when the tests are over. Nothing
is imported before the first request comes. What is imported then reads no variable of the environment in which the
processes differ; so neither transformers nor huggingface_hub is, nor is the package. The server has one thread, since
it forks.
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
LONGEST_REQUEST = 2**20  # bytes


def serve(listener, lifeline):
    """Answer requests until the tests are over; return in a process that is to run one, with that request."""
    listening = socket.socket(fileno=listener)
    preloaded = False
    while True:
        ready, _, _ = select.select([listening, lifeline], [], [])
        if lifeline in ready:
            sys.exit()
        connection, _ = listening.accept()
        if not preloaded:
            preload()
            preloaded = True
        if os.fork() == 0:
            listening.close()
            os.close(lifeline)
            return handle(connection)
        connection.close()
        with contextlib.suppress(ChildProcessError):  # those that have ended
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def preload():
    for name in PRELOADED:
        with contextlib.suppress(ImportError):  # where torchvision or PyAV is not installed
            importlib.import_module(name)
    threads = os.listdir("/proc/self/task")
    assert len(threads) == 1, f"{len(threads)} threads: a fork would have one of them alone"
    gc.freeze()


def handle(connection):
    """Fork once more and tell the client the child's id and how it ended; return in the child, with the request."""
    message, descriptors, _, _ = socket.recv_fds(connection, LONGEST_REQUEST, 3)
    child = os.fork()
    if child == 0:
        connection.close()
        for number, descriptor in enumerate(descriptors):
            os.dup2(descriptor, number)
            os.close(descriptor)
        return json.loads(message)
    for descriptor in descriptors:
        os.close(descriptor)
    connection.send(str(child).encode())
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with contextlib.suppress(OSError):  # the client may have stopped waiting
        connection.send(str(status).encode())
    os._exit(0)


def take_over(environment, directory):
    """Be a process of this environment and working directory."""
    clone_paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    paths = [path for path in sys.path[1:] if path not in clone_paths]
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(directory)
    given = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:] = [*given, *paths]
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
