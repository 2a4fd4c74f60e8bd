"""Continuous flows: a training step beside tfp's FFJORD, and the exact trace.

The same weights, base distribution and tolerances in one process, in turns;
the loss is the mean negative log-likelihood, the trace exact, the mode a graph.
FFJORD's exact trace cannot be trained under XLA, so only ours has such a row.

    python benchmarks/flow.py
"""

import argparse

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
import timing
import training
from tensorflow_probability.python.bijectors import ffjord

import keras_node
from keras_node.dynamics.linearization import Linearization
from keras_node.trace import ExactTrace

TOLERANCES = {"rtol": 1e-5, "atol": 1e-5}
WIDTH, BATCH = 64, 256
TRACE_SIZE, TRACE_BATCH = 64, 64


def make_field(size):
    """Returns a 64-64 tanh network of state and time, built."""
    keras.utils.set_random_seed(0)
    field = keras_node.ConcatTime(
        keras.Sequential(
            [
                keras.layers.Dense(WIDTH, "tanh"),
                keras.layers.Dense(WIDTH, "tanh"),
                keras.layers.Dense(size),
            ]
        )
    )
    field(tf.constant(0.0), tf.zeros((1, size)))
    return field


def make_step(bijector, field, x, jit_compile=False):
    """Returns one training step, which waits for its gradients."""
    base = tfp.distributions.MultivariateNormalDiag(tf.zeros(x.shape[1:]))
    flow = tfp.distributions.TransformedDistribution(base, bijector)
    weights = [variable.value for variable in field.trainable_variables]

    @tf.function(jit_compile=jit_compile)
    def gradients(x):
        with tf.GradientTape() as tape:
            loss = -tf.reduce_mean(flow.log_prob(x))
        return loss, tape.gradient(loss, weights)

    def step():
        loss, gradient = gradients(x)
        return loss.numpy(), [g.numpy() for g in gradient]

    return step


def contenders(field, x):
    """Returns the training steps by name, FFJORD's first."""

    def ours(solver, jit_compile=False, **kwargs):
        solver = solver(**TOLERANCES)
        flow = keras_node.CNFBijector(field, solver=solver, **kwargs)
        return make_step(flow, field, x, jit_compile)

    theirs = ffjord.FFJORD(
        field,
        ode_solve_fn=tfp.math.ode.DormandPrince(**TOLERANCES).solve,
        trace_augmentation_fn=ffjord.trace_jacobian_exact,
    )
    solvers = keras_node.solvers
    return {
        "FFJORD": make_step(theirs, field, x),
        "tsit5": ours(solvers.Tsit5),
        "dopri5": ours(solvers.Dopri5),
        "tsit5, backsolve": ours(solvers.Tsit5, adjoint="backsolve"),
        "tsit5, XLA": ours(solvers.Tsit5, jit_compile=True),
    }


def compare_steps(size, rounds):
    """Times the training steps for events of a size."""
    field = make_field(size)
    x = tf.random.stateless_normal((BATCH, size), (0, 1))
    steps = contenders(field, x)
    results = {name: step() for name, step in steps.items()}
    loss, gradients = results["FFJORD"]
    for name, (our_loss, our_gradients) in results.items():
        np.testing.assert_allclose(our_loss, loss, rtol=1e-4, err_msg=name)
        for a, b in zip(our_gradients, gradients, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-3, err_msg=name)
    runs = {name: timing.stopwatch(step) for name, step in steps.items()}
    print_ratios(
        f"A training step, events of {size}, batch {BATCH}",
        timing.alternate(runs, rounds),
    )


def compare_traces(rounds):
    """Times the exact trace against as many products in one batch."""
    field = make_field(TRACE_SIZE)
    time = tf.constant(0.5)
    y = tf.random.stateless_normal((TRACE_BATCH, TRACE_SIZE), (0, 1))
    units = tf.repeat(tf.eye(TRACE_SIZE), TRACE_BATCH, axis=0)

    def trace(y):
        return ExactTrace().divergence(Linearization(field, time, y))

    def products(y):
        """64 vector-Jacobian products as one, of 64 copies of the batch."""
        copies = tf.tile(y, (TRACE_SIZE, 1))
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(copies)
            f = field(time, copies)
        rows = tape.gradient(f, copies, output_gradients=units)
        diagonal = tf.reduce_sum(rows * units, axis=1)
        return tf.reduce_sum(tf.reshape(diagonal, (TRACE_SIZE, -1)), axis=0)

    # The last bias moves the field, and not its trace.
    weights = [variable.value for variable in field.trainable_variables[:-1]]

    def gradient(function, y):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(function(y))
        return tape.gradient(loss, weights)

    for title, wrap in (
        ("The exact trace", lambda function: function),
        ("Its gradient", lambda f: lambda y: gradient(f, y)),
    ):
        graphs = {
            "64 products in one batch": tf.function(wrap(products)),
            "exact trace": tf.function(wrap(trace)),
        }
        runs = {
            name: timing.stopwatch(lambda graph=graph: read(graph(y)), 10)
            for name, graph in graphs.items()
        }
        for run in runs.values():
            run()
        print_ratios(
            f"{title}, state of {TRACE_SIZE}, batch {TRACE_BATCH}",
            timing.alternate(runs, rounds),
        )


def read(tensors):
    return [tensor.numpy() for tensor in tf.nest.flatten(tensors)]


def print_ratios(title, seconds):
    """Prints medians, and their ratios to the first contender's."""
    medians = {name: np.median(values) for name, values in seconds.items()}
    first = next(iter(medians))
    rows = [
        (
            name,
            f"{1e3 * median:.2f}",
            f"{1e3 * seconds[name].min():.2f}",
            f"{median / medians[first]:.2f}",
        )
        for name, median in medians.items()
    ]
    header = ("", "median ms", "best ms", f"/ {first}")
    timing.print_table(title, header, rows)


def main():
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="*", default=[2, 16])
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    training.use_benchmark_threads()
    for size in options.sizes:
        compare_steps(size, options.rounds)
    compare_traces(options.rounds)


if __name__ == "__main__":
    main()
