"""How the driver and its workers talk: one JSON object a line, over pipes.

`{"setup": workload, "options": {...}, "results": path}` compiles and warms up,
writes the solution and the gradients to `path` (npz) and answers `{"nfe": ...,
"setup_seconds": ..., "megabytes": ...}`. `{"run": n}` answers `{"seconds":
[...]}`, the wall times of `n` steps. A worker ends with its standard input.
Needs numpy alone.
"""

import json
import os
import resource
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
            `step()` runs one step to its end, and `report()` returns a dict
            of arrays and a dict of counts for the driver. The arrays are
            `"solution"`, `(times, *state)`, and unless the workload is
            forward alone the gradients, named like its weights and
            `"initial_state"`.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # A library that prints must not break the protocol.
    step = None
    for line in sys.stdin:
        request = json.loads(line)
        if "setup" in request:
            workload = workloads.make(request["setup"], **request["options"])
            before, start = peak_megabytes(), time.perf_counter()
            step, report = prepare(workload)
            step()
            answer = {"setup_seconds": time.perf_counter() - start}
            step()
            answer["megabytes"] = peak_megabytes() - before
            arrays, counts = report()
            np.savez(request["results"], **arrays)
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


def peak_megabytes():
    """Returns the largest resident memory of this process so far."""
    # On Linux `getrusage` starts from that of the process that forked it.
    if os.path.exists("/proc/self/status"):
        with open("/proc/self/status", encoding="utf-8") as lines:
            (peak,) = [line for line in lines if line.startswith("VmHWM")]
        return int(peak.split()[1]) / 2**10
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


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

    def set_up(self, workload, **options):
        """Prepares a workload; returns its answer and its arrays."""
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "results.npz")
            answer = self.ask(setup=workload, options=options, results=path)
            with np.load(path) as arrays:
                return answer, dict(arrays)

    def run(self, repetitions):
        """Returns the wall times of some steps."""
        return self.ask(run=repetitions)["seconds"]

    def close(self):
        """Ends the worker."""
        self.process.stdin.close()
        self.process.wait()
        self.messages.close()
