"""The test likelihood that `fit` reaches, beside torchdiffeq's.

Both train the same continuous flow, a 64-64 tanh network of state and time
with the exact trace, from the same weights, on the same batches in the same
order, with the same optimizer and tolerances; only the solver's code differs,
and its adjoint. Prints the mean negative log-likelihood of points that neither
has seen.

    python benchmarks/two_moons.py --torch-python ~/torch/bin/python
"""

import argparse
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
import timing

import keras_node

FOLDER = pathlib.Path(__file__).parent
sys.path.append(str(FOLDER.parent / "examples"))

import toy_densities  # noqa: E402

TOLERANCE = 1e-5
LEARNING_RATE = 5e-3
TEST_POINTS = 10_000


def make_network():
    """Returns the field, built."""
    field = keras_node.ConcatTime(
        keras.Sequential(
            [
                keras.layers.Dense(64, "tanh"),
                keras.layers.Dense(64, "tanh"),
                keras.layers.Dense(2),
            ]
        )
    )
    field(tf.constant(0.0), tf.zeros((1, 2)))
    return field


def train_here(field, points, test, options):
    """Returns the test negative log-likelihood and the seconds of `fit`."""
    solver = keras_node.solvers.Tsit5(rtol=TOLERANCE, atol=TOLERANCE)
    flow = keras_node.NormalizingFlow(
        keras_node.CNFBijector(field, solver=solver),
        tfp.distributions.MultivariateNormalDiag(tf.zeros(2)),
    )
    flow.compile(keras.optimizers.Adam(LEARNING_RATE, epsilon=1e-8))
    start = time.perf_counter()
    flow.fit(points, batch_size=options.batch_size, shuffle=False, verbose=0)
    seconds = time.perf_counter() - start
    return -float(tf.reduce_mean(flow.log_prob(test))), seconds


def train_there(path, options):
    """Returns the same of torchdiffeq, in its own process."""
    command = [options.torch_python, str(FOLDER / "worker_torch_flow.py")]
    answer = subprocess.run(
        [*command, path], capture_output=True, text=True, cwd=FOLDER
    )
    if answer.returncode:
        sys.exit(answer.stderr)
    return tuple(map(float, answer.stdout.split()))


def main():
    """Trains both and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--torch-python", default=os.environ.get("KERAS_NODE_TORCH_PYTHON")
    )
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    options = parser.parse_args()
    if not shutil.which(options.torch_python or ""):
        parser.error(
            "--torch-python: an interpreter that has torchdiffeq. "
            f"Received: {options.torch_python}"
        )
    rows = []
    test = toy_densities.sample("two_moons", TEST_POINTS, 10**6)
    for seed in options.seeds:
        keras.utils.set_random_seed(seed)
        field = make_network()
        count = options.steps * options.batch_size
        points = toy_densities.sample("two_moons", count, seed)
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "flow.npz")
            np.savez(
                path,
                *field.get_weights(),
                points=points.reshape(options.steps, -1, 2),
                test=test,
                tolerance=TOLERANCE,
                learning_rate=LEARNING_RATE,
            )
            theirs, their_seconds = train_there(path, options)
        ours, our_seconds = train_here(field, points, test, options)
        numbers = (ours, theirs, ours - theirs)
        row = (str(seed), *(f"{number:.4f}" for number in numbers))
        rows.append((*row, f"{our_seconds:.0f}", f"{their_seconds:.0f}"))
        print(*rows[-1], flush=True)
    timing.print_table(
        f"Two moons, test nats after {options.steps} steps",
        ("seed", "keras_node", "torchdiffeq", "difference", "s", "s theirs"),
        rows,
    )


if __name__ == "__main__":
    main()
