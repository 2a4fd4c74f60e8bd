"""Held-out nats of two moons, by flow matching and by likelihood.

The setting in which a prototype in plain TensorFlow was measured: moons of
radius 1 with a noise of 0.05, two hidden layers of 64 with tanh and the time
concatenated, batches of 256 new points, Adam with 5e-3 along a cosine; 6,000
steps of flow matching, or 700 of maximum likelihood, which take 1.3 times as
long or more.

    python benchmarks/objectives.py    # Adds to docs/objectives.csv.
"""

import argparse
import itertools
import pathlib
import sys
import time

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

import keras_node

FOLDER = pathlib.Path(__file__).parents[1]
sys.path.append(str(FOLDER / "examples"))
from csv_log import append, read  # noqa: E402

STEPS = {"flow_matching": 6_000, "likelihood": 700}
BATCH_SIZE, HELD_OUT, NOISE = 256, 10_000, 0.05


def moons(count, rng):
    """Returns points of the two moons, as scikit-learn's `make_moons`."""
    angle = rng.uniform(0.0, np.pi, count)
    x, y = np.cos(angle), np.sin(angle)
    is_upper = rng.random(count) < 0.5
    points = np.where(is_upper, [x, y], [1.0 - x, 0.5 - y]).T
    return (points + rng.normal(0.0, NOISE, points.shape)).astype("float32")


def flow_of(field, rtol):
    """Returns the flow of a field from the normal distribution."""
    solver = keras_node.solvers.Tsit5(rtol=rtol, atol=rtol)
    base = tfp.distributions.MultivariateNormalDiag(tf.zeros(2))
    bijector = keras_node.CNFBijector(field, solver=solver)
    return keras_node.NormalizingFlow(bijector, base)


def measure(objective, seed):
    """Trains a flow; returns a row of the log."""
    keras.utils.set_random_seed(seed)
    rng = np.random.default_rng(seed)
    dense = keras.layers.Dense
    net = keras.Sequential([dense(64, "tanh"), dense(64, "tanh"), dense(2)])
    field = keras_node.ConcatTime(net)
    steps = STEPS[objective]
    rate = keras.optimizers.schedules.CosineDecay(5e-3, steps)
    flow = flow_of(field, 1e-3)
    flow.compile(keras.optimizers.Adam(rate), objective=objective)
    x = moons(steps * BATCH_SIZE, rng)
    start = time.perf_counter()
    flow.fit(x, batch_size=BATCH_SIZE, shuffle=False, verbose=0)
    seconds = time.perf_counter() - start
    held_out = moons(HELD_OUT, np.random.default_rng(99))
    log_prob = flow_of(field, 1e-6).predict(held_out, HELD_OUT, verbose=0)
    nats = -float(np.mean(log_prob))
    return {
        "objective": objective,
        "seed": seed,
        "steps": steps,
        "nats": round(nats, 4),
        "seconds": round(seconds, 1),
    }


def main():
    """Trains what the log lacks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    log = FOLDER / "docs" / "objectives.csv"
    parser.add_argument("--log", type=pathlib.Path, default=log)
    arguments = parser.parse_args()
    known = [(r["objective"], int(r["seed"])) for r in read(arguments.log)]
    for case in itertools.product(STEPS, arguments.seeds):
        if case not in known:
            row = measure(*case)
            append(arguments.log, row)
            print(*row.values(), flush=True)
    print(f"Mean nats of all runs that are in {arguments.log}:")
    rows = read(arguments.log)
    for objective in STEPS:
        nats = [float(r["nats"]) for r in rows if r["objective"] == objective]
        print(f"{objective:14}{np.mean(nats):7.3f}")


if __name__ == "__main__":
    main()
