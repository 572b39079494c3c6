"""Run console commands against a hostile loopback Hub: limits are short here, retries are not waited for.

Each line of stdin is a JSON list, the arguments of a command; each line of stdout is a JSON object with its exit code
and what it printed. What the libraries log goes to stderr, as it does for a user.
"""

import contextlib
import io
import json
import os
import sys
import time


def run(arguments):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(arguments)
        except SystemExit as stop:
            code = stop.code
    return {"code": code, "out": out.getvalue(), "err": err.getvalue()}


if __name__ == "__main__":
    from divprune_hf.checkpoints import hub_limits
    from divprune_hf.cli import main
    from divprune_hf.publishing import push

    seconds, answer_bytes = os.environ["TEST_LIMITS"].split()
    short = {"seconds": float(seconds), "bytes_per_second": 10**6, "answer_bytes": int(answer_bytes), "pages": 20}
    hub_limits.LIMITS = hub_limits.Limits(**short)
    push.checks.check_loads = lambda *_, **__: None  # it speaks to no Hub, and takes seconds
    real_sleep = time.sleep
    time.sleep = lambda seconds: real_sleep(min(seconds, 0.02))
    answers, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        print(json.dumps(run(json.loads(line))), file=answers, flush=True)
