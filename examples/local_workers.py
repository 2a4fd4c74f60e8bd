"""Runs the workers of a TensorFlow cluster as processes on this machine."""

import json
import os
import socket
import subprocess
import sys
import time


def free_addresses(count):
    """Returns addresses of this machine that nobody listens at."""
    sockets = [socket.socket() for _ in range(count)]
    for listener in sockets:
        listener.bind(("127.0.0.1", 0))
    addresses = [f"127.0.0.1:{s.getsockname()[1]}" for s in sockets]
    for listener in sockets:
        listener.close()
    return addresses


def start_workers(command, count):
    """Starts a command as each of the workers, and returns their processes."""
    addresses = free_addresses(count)
    workers = []
    for index in range(count):
        task = {"type": "worker", "index": index}
        config = {"cluster": {"worker": addresses}, "task": task}
        environment = {
            **os.environ,
            "TF_CONFIG": json.dumps(config),
            "CUDA_VISIBLE_DEVICES": "-1",  # Each would take all GPUs.
        }
        workers.append(subprocess.Popen(command, env=environment))
        print(f"worker {index} is process {workers[-1].pid}", flush=True)
    return workers


def wait(workers):
    """Waits for all workers, or until one fails; returns whether none did."""
    try:
        while True:
            codes = [worker.poll() for worker in workers]
            if all(code == 0 for code in codes):
                return True
            if any(codes):
                return False
            time.sleep(0.1)
    finally:
        # The others would wait for the one that failed.
        for worker in workers:
            worker.kill()
            worker.wait()


def run_locally(command, count, max_restarts):
    """Runs a command as each of the workers, again when one has failed.

    Args:
        command: List of strings.
        count: Positive integer, the number of workers.
        max_restarts: Integer, how often to start them again.
    """
    for restart in range(max_restarts + 1):
        if restart:
            print(f"a worker failed: restart {restart}", flush=True)
        if wait(start_workers(command, count)):
            return
    sys.exit(
        "The workers must end without an error, or be restarted at most "
        "`--max-restarts` times; what failed is above. "
        f"Received: {max_restarts=}"
    )
