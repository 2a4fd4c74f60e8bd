"""Held-out nats of two moons, by flow matching and by likelihood.

The setting in which a prototype in plain TensorFlow was measured: moons of
radius 1 with a noise of 0.05, two hidden layers of 64 with tanh and the time
concatenated, batches of 256 new points, Adam with 5e-3 along a cosine; 6,000
steps of flow matching, or 700 of maximum likelihood, which take about as long.

    python benchmarks/objectives.py    # Adds to docs/objectives.csv.
"""

import argparse
import csv
import pathlib
import time

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

import keras_node

STEPS = {"flow_matching": 6_000, "likelihood": 700}
BATCH_SIZE, HELD_OUT, NOISE = 256, 10_000, 0.05
COLUMNS = ("objective", "seed", "steps", "nats", "seconds")


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
    return objective, seed, steps, round(nats, 4), round(seconds, 1)


def main():
    """Trains what the log lacks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--path", default="docs/objectives.csv")
    arguments = parser.parse_args()
    path = pathlib.Path(arguments.path)
    known = path.read_text().splitlines() if path.exists() else []
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        if not known:
            writer.writerow(COLUMNS)
        for objective in STEPS:
            for seed in arguments.seeds:
                case = f"{objective},{seed},"
                if not any(row.startswith(case) for row in known):
                    row = measure(objective, seed)
                    writer.writerow(row)
                    file.flush()
                    print(*row, flush=True)


if __name__ == "__main__":
    main()
