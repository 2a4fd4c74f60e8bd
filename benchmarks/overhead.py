"""What a solve costs beyond its evaluations of the vector field.

The wall time of `odeint` (forward only, graph mode) is divided by that of a
bare `tf.while_loop` that evaluates the same field as often, `y + dt * f(y)`,
in the same process and in turns with it. 1 means that the solver is free;
the target is 1.4.

    python benchmarks/overhead.py
"""

import argparse

import numpy as np
import tensorflow as tf
import timing
import training
import workloads

import keras_node

TARGET = 1.4


def make_solve(field, workload):
    """Returns the forward solve: the end and its number of evaluations."""
    solver = keras_node.solvers.Tsit5(rtol=workload.rtol, atol=workload.atol)

    @tf.function
    def solve(state):
        results = keras_node.odeint(field, state, training.TIMES, solver=solver)
        return results.states[-1], results.diagnostics.num_ode_fn_evaluations

    return solve


def make_bare_loop(field):
    """Returns the loop that only evaluates the field, `count` times."""

    @tf.function
    def loop(state, count):
        def body(i, y):
            t = 1e-3 * tf.cast(i, y.dtype)
            return i + 1, y + 1e-3 * field(t, y)

        return tf.while_loop(lambda i, y: i < count, body, (0, state))[1]

    return loop


def measure(name, rounds):
    """Times one workload and returns its row of the table."""
    workload = workloads.make(name)
    field = training.make_field(workload)
    state = tf.constant(workload.initial_state)
    solve = make_solve(field, workload)
    loop = make_bare_loop(field)
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
        name,
        str(int(nfe)),
        f"{1e3 * medians['solve']:.2f}",
        f"{1e3 * medians['bare']:.2f}",
        f"{medians['solve'] / medians['bare']:.2f}",
        f"{best:.2f}",
    )


def main():
    """Prints the table of all workloads."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--workloads", nargs="+", default=list(workloads.WORKLOADS)
    )
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    training.use_benchmark_threads()
    rows = [measure(name, options.rounds) for name in options.workloads]
    timing.print_table(
        f"A solve over its bare evaluations (target: at most {TARGET})",
        ("workload", "NFE", "solve ms", "bare ms", "ratio", "ratio of best"),
        rows,
    )


if __name__ == "__main__":
    main()
