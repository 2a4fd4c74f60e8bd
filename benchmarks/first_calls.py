"""Seconds of the first call of a function, and of later ones.

A training step as a graph and under XLA; an optimizer that calls its function
in ten places; a Hessian, by vectorized Jacobian and by products in a loop.
The first call traces the graph, optimizes it, and runs.

    python benchmarks/first_calls.py    # Writes docs/first_calls.csv.
"""

import pathlib
import statistics
import sys
import time

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

import keras_node

FOLDER = pathlib.Path(__file__).parents[1]
sys.path.append(str(FOLDER / "examples"))
from csv_log import record_command  # noqa: E402

NUM_RATES, NUM_LATER = 16, 5


def loss(rates):
    """Returns the distance of decayed states from 1 / 2."""
    results = keras_node.odeint(
        lambda t, y: -rates * y,
        tf.ones(NUM_RATES),
        (0.0, 1.0),
        adjoint="direct",
    )
    return tf.reduce_sum((results.states[-1] - 0.5) ** 2)


def value_and_gradient(rates):
    """Returns the loss and its gradient."""
    return tfp.math.value_and_gradient(loss, rates, use_gradient_tape=True)


def minimize(function):
    """Returns a graph that minimizes the loss by L-BFGS."""
    return tf.function(
        lambda rates: tfp.optimizer.lbfgs_minimize(function, rates).position
    )


def taped_gradient(rates):
    """Returns the gradient of the loss, and the tape that recorded it."""
    with tf.GradientTape() as outer:
        outer.watch(rates)
        with tf.GradientTape() as inner:
            inner.watch(rates)
            value = loss(rates)
        gradient = inner.gradient(value, rates)
    return gradient, outer


@tf.function
def hessian_by_jacobian(rates):
    """Returns the Hessian of the loss, all rows at once."""
    gradient, tape = taped_gradient(rates)
    return tape.jacobian(gradient, rates)


@tf.function
def hessian_by_products(rates):
    """Returns the Hessian of the loss, row by row."""

    def product(vector):
        gradient, tape = taped_gradient(rates)
        return tape.gradient(gradient, rates, output_gradients=vector)

    return tf.map_fn(product, tf.eye(NUM_RATES))


def training_step(jit_compile):
    """Returns a training step of two hidden layers, as `fit` makes it."""
    keras.utils.set_random_seed(0)
    net = [keras.layers.Dense(64, "tanh") for _ in range(2)]
    net.append(keras.layers.Dense(8))
    model = keras.Sequential([keras.Input([8])])
    dynamics = keras_node.ConcatTime(keras.Sequential(net))
    model.add(keras_node.ODELayer(dynamics))
    model.compile("adam", "mse", jit_compile=jit_compile)
    x = np.random.default_rng(0).normal(size=(256, 8)).astype("float32")
    return lambda: model.train_on_batch(x, x)


def cases():
    """Yields names and functions without arguments."""
    yield "training step, graph", training_step(jit_compile=False)
    yield "training step, XLA", training_step(jit_compile=True)
    rates = tf.linspace(0.5, 1.5, NUM_RATES)
    apart = tf.function(
        value_and_gradient, experimental_attributes={"_noinline": True}
    )
    for name, function in {
        "L-BFGS": minimize(value_and_gradient),
        "L-BFGS, function not inlined": minimize(apart),
        "Hessian, tape.jacobian": hessian_by_jacobian,
        "Hessian, products in a loop": hessian_by_products,
    }.items():
        yield name, lambda function=function: function(rates)


def seconds_of(call):
    """Returns the seconds of a call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def rows():
    """Yields a row for each case, after a solve that warms the process up."""
    loss(tf.ones(NUM_RATES))
    for name, call in cases():
        first = seconds_of(call)
        later = statistics.median(seconds_of(call) for _ in range(NUM_LATER))
        yield {
            "case": name,
            "first_seconds": f"{first:.1f}",
            "later_milliseconds": f"{1000 * later:.1f}",
        }


def main():
    """Measures, writes the CSV file, and prints it."""
    log = FOLDER / "docs" / "first_calls.csv"
    record_command(__doc__, log, rows())


if __name__ == "__main__":
    main()
