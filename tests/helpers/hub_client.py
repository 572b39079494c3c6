"""Run console commands in a process that takes a loopback server for the Hub, one after another.

Each line of stdin is a JSON object with the `arguments` of a command, the `token` to use, whether the variant is loaded
in a fresh process before a push (`load`, which takes seconds) and, for a full disk, the `largest_file` in bytes; each
line of stdout is one with its exit code and what it printed.
"""

import contextlib
import io
import json
import os
import resource
import sys
import time


def run(arguments, token, load, largest_file=None):
    push.checks.check_loads = check_loads if load else (lambda *_, **__: None)
    os.environ.pop("HF_TOKEN", None)
    if token is not None:
        os.environ["HF_TOKEN"] = token
    out, err = io.StringIO(), io.StringIO()
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file or old[0], old[1]))
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(arguments)
        except SystemExit as stop:
            code = stop.code
    resource.setrlimit(resource.RLIMIT_FSIZE, old)
    return {"code": code, "out": out.getvalue(), "err": err.getvalue()}


if __name__ == "__main__":
    from divprune_hf.cli import main
    from divprune_hf.publishing import checks, push
    from divprune_hf.publishing.checks import check_loads
    from tests.helpers import warm_python

    checks.subprocess = warm_python  # its `run`: each process that loads a variant starts in less time
    real_sleep = time.sleep
    time.sleep = lambda seconds: real_sleep(min(seconds, 0.05))  # retries need not be waited for
    answers, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        print(json.dumps(run(**json.loads(line))), file=answers, flush=True)
