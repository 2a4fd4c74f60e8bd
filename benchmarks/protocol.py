"""How the driver and its workers talk: one JSON object a line, over pipes.

`{"setup": workload, "gradient": path}` compiles and warms up, writes the
gradients to `path` (npz) and answers `{"nfe": ..., ...}`. `{"run": n}` answers
`{"seconds": [...]}`, the wall times of `n` training steps. A worker ends with
its standard input. Needs numpy alone.
"""

import json
import os
import subprocess
import sys
import tempfile
import time

import numpy as np
import workloads

THREADS = 2


def serve(prepare):
    """Answers the driver's requests until standard input closes.

    Args:
        prepare: Function of a `Workload` that returns `(step, report)`:
            `step()` runs one training step to its end, and `report()`
            returns a dict of gradients, named like the workload's weights
            and `"initial_state"`, and a dict of counts for the driver.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # A library that prints must not break the protocol.
    step = None
    for line in sys.stdin:
        request = json.loads(line)
        if "setup" in request:
            workload = workloads.WORKLOADS[request["setup"]]()
            start = time.perf_counter()
            step, report = prepare(workload)
            step()
            answer = {"setup_seconds": time.perf_counter() - start}
            step()
            gradients, counts = report()
            np.savez(request["gradient"], **gradients)
            answer.update(counts)
        else:
            answer = {
                "seconds": [_seconds(step) for _ in range(request["run"])]
            }
        print(json.dumps(answer), file=answers, flush=True)


def _seconds(step):
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def quiet_environment():
    """Returns the environment of a child process: CPU only, few messages."""
    return {
        **os.environ,
        "CUDA_VISIBLE_DEVICES": "-1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }


class Worker:
    """A contender in a process of its own, kept alive between requests.

    Args:
        python: String, the interpreter that has the contender installed.
        script: String, the worker's file name in this folder.
        arguments: Sequence of strings for the worker's command line.
    """

    def __init__(self, python, script, arguments=()):
        folder = os.path.dirname(os.path.abspath(__file__))
        self.messages = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(
            [python, os.path.join(folder, script), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.messages,
            text=True,
            env=quiet_environment(),
        )

    def ask(self, **request):
        """Sends one request and returns its answer.

        Raises:
            RuntimeError: If the worker died; with its last message.
        """
        try:
            print(json.dumps(request), file=self.process.stdin, flush=True)
            return json.loads(self.process.stdout.readline())
        except (BrokenPipeError, json.JSONDecodeError) as error:
            self.process.wait()
            self.messages.seek(0)
            lines = self.messages.read().split("\n")
            last = next(filter(None, reversed(lines)), "no message")
            raise RuntimeError(last) from error

    def close(self):
        """Ends the worker."""
        self.process.stdin.close()
        self.process.wait()
        self.messages.close()
