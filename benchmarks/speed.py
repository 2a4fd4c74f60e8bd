"""One training step side by side: keras_node, diffrax and torchdiffeq.

A step is the solve from 0 to 1 and the gradients of `sum(y(1)**2)` with
respect to the weights and the initial state, everything compiled and warm.
Each contender lives in a process of its own; they take turns, one at a time.
"Gradient difference" is to the first peer. Methods differ as much as the
tolerance allows, which is much in `conv`, with ReLU and 1e-3.

    python benchmarks/speed.py --torch-python ... --jax-python ...
"""

import argparse
import os
import sys
import tempfile

import numpy as np
import protocol
import timing
import workloads

TORCHDIFFEQ = "worker_torchdiffeq.py"
THREADS = str(protocol.THREADS)

# Name: (environment, script, arguments, workload kinds). PyTorch also gets
# a row with one thread, where it is faster on the small workload.
CONTENDERS = {
    "keras_node graph": ("tf", "worker_keras_node.py", ["graph"], "mlp conv"),
    "keras_node XLA": ("tf", "worker_keras_node.py", ["xla"], "mlp conv"),
    "keras_node tuned field": (
        "tf",
        "worker_keras_node.py",
        ["graph", "tuned"],
        "conv",
    ),
    "diffrax Tsit5": ("jax", "worker_diffrax.py", [], "mlp"),
    "torchdiffeq dopri5": (
        "torch",
        TORCHDIFFEQ,
        ["odeint", "dopri5", THREADS],
        "mlp conv",
    ),
    "torchdiffeq one thread": (
        "torch",
        TORCHDIFFEQ,
        ["odeint", "dopri5", "1"],
        "mlp conv",
    ),
    "torchdiffeq adjoint": (
        "torch",
        TORCHDIFFEQ,
        ["odeint_adjoint", "dopri5", THREADS],
        "mlp conv",
    ),
}
BUSY = 0.5  # Load average from which a measurement is unfair.
WRONG = 0.5  # Gradient difference that no tolerance explains.
HEADER = (
    "contender",
    "median ms",
    "best ms",
    "/ best peer",
    "NFE",
    "setup s",
    "gradient difference",
)


def gradient_difference(gradients, reference):
    """Norm of the difference over that of the reference, the worst array."""
    return max(
        np.linalg.norm(gradients[name] - value) / np.linalg.norm(value)
        for name, value in reference.items()
    )


def show_difference(difference):
    """Formats a gradient difference; a wrong gradient is not a fast one."""
    is_wrong = not difference < WRONG  # Also if it is NaN.
    return f"{difference:.1e}" + " WRONG" * is_wrong


def start(workload, contenders, pythons, folder):
    """Starts and warms up the workers, one after the other.

    Returns:
        Three dicts with the same keys: workers, answers and gradients. A
        contender that cannot run is left out, and stderr says why.
    """
    workers, answers, gradients = {}, {}, {}
    for name in contenders:
        environment, script, arguments, kinds = CONTENDERS[name]
        if workload().kind not in kinds.split():
            continue
        worker = protocol.Worker(pythons[environment], script, arguments)
        path = os.path.join(folder, "gradients.npz")
        try:
            answers[name] = worker.ask(setup=workload().name, gradient=path)
        except RuntimeError as error:
            print(f"{name} is left out: {error}", file=sys.stderr)
            continue
        workers[name] = worker
        with np.load(path) as arrays:
            gradients[name] = dict(arrays)
    return workers, answers, gradients


def is_peer(name):
    """Whether a contender is not keras_node."""
    return CONTENDERS[name][0] != "tf"


def run_of(worker, repetitions, longest):
    """Returns the worker's timed run, of about `longest` seconds at most."""
    seconds = worker.ask(run=1)["seconds"][0]
    count = int(np.clip(longest / seconds, 1, repetitions))
    return lambda: worker.ask(run=count)["seconds"]


def compare(name, options, pythons, folder):
    """Times one workload and prints its table."""
    workload = workloads.WORKLOADS[name]
    workers, answers, gradients = start(
        workload, options.contenders, pythons, folder
    )
    if not workers:
        return
    runs = {
        key: run_of(worker, options.repetitions, longest=1.0)
        for key, worker in workers.items()
    }
    seconds = timing.alternate(runs, options.rounds)
    for worker in workers.values():
        worker.close()
    title = f"{name}: {options.rounds} rounds, one training step"
    rows = table_rows(seconds, answers, gradients)
    timing.print_table(title, HEADER, rows)


def table_rows(seconds, answers, gradients):
    """Formats what was measured, one row for each contender."""
    medians = {key: np.median(values) for key, values in seconds.items()}
    peers = [key for key in medians if is_peer(key)]
    reference = gradients[(peers or list(medians))[0]]
    fastest = min((medians[key] for key in peers), default=np.nan)
    rows = []
    for key, median in medians.items():
        nfe = str(answers[key]["nfe"])
        if answers[key].get("nfe_backward"):
            nfe += f" + {answers[key]['nfe_backward']}"
        difference = gradient_difference(gradients[key], reference)
        rows.append(
            (
                key,
                f"{1e3 * median:.2f}",
                f"{1e3 * seconds[key].min():.2f}",
                f"{median / fastest:.2f}",
                nfe,
                f"{answers[key]['setup_seconds']:.1f}",
                show_difference(difference),
            )
        )
    return rows


def main():
    """Parses the command line and compares every workload."""
    variables = os.environ
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--torch-python",
        default=variables.get("KERAS_NODE_TORCH_PYTHON", sys.executable),
        help="interpreter with torch and torchdiffeq",
    )
    parser.add_argument(
        "--jax-python",
        default=variables.get("KERAS_NODE_JAX_PYTHON", sys.executable),
        help="interpreter with jax, diffrax and equinox",
    )
    parser.add_argument(
        "--workloads", nargs="+", default=list(workloads.WORKLOADS)
    )
    parser.add_argument("--contenders", nargs="+", default=list(CONTENDERS))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--repetitions", type=int, default=3)
    options = parser.parse_args()
    pythons = {
        "tf": sys.executable,
        "torch": options.torch_python,
        "jax": options.jax_python,
    }
    load = os.getloadavg()[0]
    if load > BUSY:
        print(
            f"Something else runs (load {load:.1f}): PyTorch's threads wait "
            "for each other and are up to 50 times as slow.",
            file=sys.stderr,
        )
    with tempfile.TemporaryDirectory() as folder:
        for name in options.workloads:
            compare(name, options, pythons, folder)


if __name__ == "__main__":
    main()
