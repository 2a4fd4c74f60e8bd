"""What a solve costs beyond its evaluations of the vector field.

The wall time of `odeint` from 0 to 1 by `Tsit5`, forward only, is divided by
that of a bare `tf.while_loop` that evaluates the same field as often,
`y + dt * f(y)`, in the same process and in turns with it; both as graphs, and
under XLA. 1 means that the solver is free; the target of a graph is 1.4.

    python benchmarks/overhead.py
"""

import argparse
import sys

import numpy as np
import tensorflow as tf
import timing
import training
import workloads

import keras_node

TARGET = 1.4
WORKLOADS = ("mlp_one", "mlp_64", "mlp_small", "mlp_large", "mlp_wide", "conv")


def make_solve(field, workload, jit_compile):
    """Returns the forward solve: the end and its number of evaluations."""
    solver = keras_node.solvers.Tsit5(rtol=workload.rtol, atol=workload.atol)

    @tf.function(jit_compile=jit_compile)
    def solve(state):
        results = keras_node.odeint(field, state, training.TIMES, solver=solver)
        return results.states[-1], results.diagnostics.num_ode_fn_evaluations

    return solve


def make_bare_loop(field, jit_compile):
    """Returns the loop that only evaluates the field, `count` times."""

    @tf.function(jit_compile=jit_compile)
    def loop(state, count):
        def body(i, y):
            t = 1e-3 * tf.cast(i, y.dtype)
            return i + 1, y + 1e-3 * field(t, y)

        return tf.while_loop(lambda i, y: i < count, body, (0, state))[1]

    return loop


def measure(name, jit_compile, rounds):
    """Times one workload and returns its row of the table."""
    label = name + ", XLA" * bool(jit_compile)
    print(label, file=sys.stderr, flush=True)
    workload = workloads.make(name)
    field = training.make_field(workload)
    state = tf.constant(workload.initial_state)
    solve = make_solve(field, workload, jit_compile)
    loop = make_bare_loop(field, jit_compile)
    nfe = tf.cast(solve(state)[1], tf.int32)
    runs = {
        "solve": timing.stopwatch(lambda: solve(state)[0].numpy()),
        "bare": timing.stopwatch(lambda: loop(state, nfe).numpy()),
    }
    timing.alternate(runs, rounds=2)  # Warm up.
    seconds = timing.alternate(runs, rounds)
    medians = {key: np.median(values) for key, values in seconds.items()}
    best = seconds["solve"].min() / seconds["bare"].min()
    return (
        label,
        str(int(nfe)),
        f"{1e3 * medians['solve']:.2f}",
        f"{1e3 * medians['bare']:.2f}",
        f"{medians['solve'] / medians['bare']:.2f}",
        f"{best:.2f}",
    )


def main():
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--workloads", nargs="+", choices=WORKLOADS, default=WORKLOADS
    )
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    training.use_benchmark_threads()
    rows = [
        measure(name, jit_compile, options.rounds)
        for name in options.workloads
        for jit_compile in (None, True)
    ]
    timing.print_table(
        f"A solve over its bare evaluations (target of a graph: {TARGET})",
        ("workload", "NFE", "solve ms", "bare ms", "ratio", "ratio of best"),
        rows,
    )


if __name__ == "__main__":
    main()
