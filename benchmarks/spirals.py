"""Neural CDEs that tell clockwise spirals from others, beside diffrax.

The model is that of diffrax's example: 8 hidden units, a field of one hidden
layer of 128, Hermite paths, batches of 32, Adam at 1e-2. Prints the accuracy on
spirals held out, and milliseconds of a training step, medians of turns in one
run; diffrax where `KERAS_NODE_JAX_PYTHON` names an interpreter that has it.

    python benchmarks/spirals.py

Reference:
- [Kidger et al., 2020](https://arxiv.org/abs/2005.08926)
"""

import argparse
import os
import time

import keras
import numpy as np
import protocol
import spirals_data as data
import timing

import keras_node

SOLVERS = ("tsit5", "midpoint")


def make_step(solver, jit, seed):
    """Returns a training step and the accuracy, as functions."""
    keras.utils.set_random_seed(seed)
    width = keras.layers.Dense(data.WIDTH, "softplus")
    field = keras.Sequential(
        [width, keras.layers.Dense(data.UNITS * 3, "tanh")]
    )
    inputs = {
        "values": keras.Input((data.LENGTH, 2), name="values"),
        "times": keras.Input((data.LENGTH,), name="times"),
    }
    state = keras_node.NeuralCDE(data.UNITS, field, solver=solver)(inputs)
    model = keras.Model(inputs, keras.layers.Dense(1, "sigmoid")(state))
    model.compile(
        keras.optimizers.Adam(data.RATE),
        "binary_crossentropy",
        jit_compile=jit,
    )
    values, times, labels = data.spirals(data.COUNT, seed)
    tested, tested_times, truth = data.spirals(data.COUNT, seed + 1000)
    batches = data.batches(seed)

    def step():
        rows = next(batches)
        model.train_on_batch(
            {"values": values[rows], "times": times[rows]}, labels[rows]
        )

    def accuracy():
        found = model.predict(
            {"values": tested, "times": tested_times},
            batch_size=data.COUNT,
            verbose=0,
        )
        return float(np.mean((found[:, 0] > 0.5) == truth))

    return step, accuracy


def contenders(seed, diffrax):
    """Returns `(step, accuracy)` of each contender, by name.

    Args:
        seed: Integer.
        diffrax: `protocol.Worker`, or `None`.
    """
    found = {
        f"keras_node, {solver}{', XLA' if jit else ''}": make_step(
            solver, jit, seed
        )
        for solver in SOLVERS
        for jit in (False, True)
    }
    if diffrax:
        diffrax.ask(start=seed)
        found["diffrax, tsit5"] = (
            lambda: diffrax.ask(step=1),
            lambda: diffrax.ask(accuracy=1)["accuracy"],
        )
    return found


def measure(seed, steps, rounds, diffrax):
    """Prints accuracies after some steps, then the time of one."""
    rows = []
    made = contenders(seed, diffrax)
    accuracies = {}
    for name, (step, accuracy) in made.items():
        start = time.perf_counter()
        step()
        first = time.perf_counter() - start
        for _ in range(steps - 1):
            step()
        accuracies[name] = accuracy(), first
    runs = {name: timing.stopwatch(step) for name, (step, _) in made.items()}
    seconds = timing.alternate(runs, rounds)
    for name, (accuracy, first) in accuracies.items():
        milliseconds = f"{1e3 * np.median(seconds[name]):.0f}"
        rows.append([name, f"{accuracy:.3f}", milliseconds, f"{first:.1f}"])
    timing.print_table(
        f"Seed {seed}, accuracy after {steps} steps",
        ["", "accuracy", "ms a step", "s, first step"],
        rows,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--jax-python", default=os.environ.get("KERAS_NODE_JAX_PYTHON")
    )
    arguments = parser.parse_args()
    diffrax = None
    if arguments.jax_python:
        diffrax = protocol.Worker(
            arguments.jax_python, "worker_diffrax_spirals.py"
        )
    for seed in arguments.seeds:
        measure(seed, arguments.steps, arguments.rounds, diffrax)
    if diffrax:
        diffrax.close()


if __name__ == "__main__":
    main()
