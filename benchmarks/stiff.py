"""Stiff solvers: error against time, and a batch in which each has its clock.

Rodas5P and Rosenbrock23 beside SciPy's Radau and BDF, and diffrax's Kvaerno5
where `KERAS_NODE_JAX_PYTHON` names an interpreter that has it. In float64;
times are of compiled solves (of SciPy: of Python), medians. Steps are those
accepted, but for the batch: there they are attempts, all of which it waits
for.

    python benchmarks/stiff.py
"""

import argparse
import functools
import json
import os
import pathlib
import subprocess
import tempfile
import time

import numpy as np
import protocol
import scipy.integrate
import stiff_fields
import tensorflow as tf

import keras_node
from keras_node.solvers import Rodas5P, Rosenbrock23

FOLDER = pathlib.Path(__file__).parent
REPEATS = 5
OURS = {"Rodas5P": Rodas5P, "Rosenbrock23": Rosenbrock23}


def median_ms(function):
    """Returns the result of a function, and its median milliseconds."""
    result = function()
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        function()
        times.append(1e3 * (time.perf_counter() - start))
    return result, float(np.median(times))


def with_ours(problem, solver_class, rtol, jit=False):
    """Returns state, steps and milliseconds."""
    solver = solver_class(
        rtol=rtol,
        atol=rtol * problem.atol,
        max_num_steps=100_000,
        on_failure="nan",
    )

    @tf.function(autograph=False, jit_compile=jit or None)
    def solve(y0):
        results = keras_node.odeint(
            lambda t, y: tf.stack(problem.f(tf, t, y)),
            y0,
            (0.0, problem.end),
            solver,
        )
        counts = results.diagnostics
        return results.states[-1], counts.num_accepted_steps

    y0 = tf.constant(problem.y0, tf.float64)
    (y, steps), milliseconds = median_ms(lambda: [x.numpy() for x in solve(y0)])
    return y, int(steps), milliseconds


def with_scipy(problem, method, rtol):
    """Returns state, steps and milliseconds."""
    result, milliseconds = median_ms(
        lambda: scipy.integrate.solve_ivp(
            lambda t, y: problem.f(np, t, y),
            (0.0, problem.end),
            problem.y0,
            method,
            rtol=rtol,
            atol=rtol * problem.atol,
        )
    )
    end = result.y[:, -1] if result.success else np.nan
    return end, len(result.t) - 1, milliseconds


def with_diffrax():
    """Returns what the worker wrote; `{}` where there is none."""
    python = os.environ.get("KERAS_NODE_JAX_PYTHON")
    if python is None:
        return {}
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "results.json")
        subprocess.run(
            [python, FOLDER / "worker_diffrax_stiff.py", path],
            check=True,
            env=protocol.quiet_environment(),
        )
        with open(path, encoding="utf-8") as file:
            return json.load(file)


def exact(problem):
    """Returns the last state to about twelve digits."""
    return scipy.integrate.solve_ivp(
        lambda t, y: problem.f(np, t, y),
        (0.0, problem.end),
        problem.y0,
        "Radau",
        rtol=1e-12,
        atol=1e-12 * problem.atol,
    ).y[:, -1]


def curves(theirs):
    """Prints steps, milliseconds and the relative error of every contender."""
    tolerances = stiff_fields.TOLERANCES
    print(
        f"{'rtol':26}"
        + "".join(f"{rtol:>24.0e}" for rtol in tolerances)
        + f"\n{'problem':12}{'method':14}"
        + f"{'steps':>8}{'ms':>8}{'error':>8}" * len(tolerances)
    )
    for name, problem in stiff_fields.PROBLEMS.items():
        true = exact(problem)
        rows = {}
        for method, solver in OURS.items():
            rows[method] = [
                with_ours(problem, solver, rtol)
                for rtol in stiff_fields.TOLERANCES
                # Of order 2: it would take minutes.
                if method == "Rodas5P" or rtol >= 1e-6
            ]
        for method in ("Radau", "BDF"):
            rows[method] = [
                with_scipy(problem, method, rtol)
                for rtol in stiff_fields.TOLERANCES
            ]
        rows["Kvaerno5"] = theirs.get(name, [])
        for method, found in rows.items():
            cells = [_cell(*values, true) for values in found]
            row = "".join(f"{cell:>24}" for cell in cells)
            print(f"{name:12}{method:14}{row}", flush=True)


def _cell(y, steps, milliseconds, true):
    error = np.max(np.abs(np.asarray(y) - true) / np.abs(true))
    shown = f"{error:7.0e}" if np.isfinite(error) else " failed"
    return f"{steps:7d} {milliseconds:7.1f} {shown}"


def batch(theirs):
    """Prints what a step of the batch takes, each sample on its own clock."""
    *arrays, y0 = stiff_fields.batch()
    arrays = [tf.constant(array) for array in arrays]
    solver = Rodas5P(
        rtol=stiff_fields.RTOL, atol=stiff_fields.ATOL, per_sample_steps=True
    )

    def solve(y):
        results = keras_node.odeint(
            lambda t, y: stiff_fields.batch_field(tf, arrays, y),
            y,
            (0.0, stiff_fields.END),
            solver,
        )
        counts = results.diagnostics
        return tf.reduce_max(
            counts.num_accepted_steps + counts.num_rejected_steps
        )

    state = tf.constant(y0)
    for name, jit in (("Rodas5P", None), ("Rodas5P, XLA", True)):
        compiled = tf.function(solve, autograph=False, jit_compile=jit)
        _print_steps(name, *median_ms(functools.partial(_run, compiled, state)))
    if theirs:
        _print_steps("Kvaerno5, vmap", *theirs["batch"])


def _run(compiled, state):
    return int(compiled(state))


def _print_steps(name, steps, milliseconds):
    print(
        f"{name:16}{steps:6d} steps{milliseconds:9.1f} ms"
        f"{milliseconds / steps:8.2f} a step",
        flush=True,
    )


def main():
    argparse.ArgumentParser(
        description=__doc__.split("\n\n", maxsplit=1)[0]
    ).parse_args()
    theirs = with_diffrax()
    print(
        f"{stiff_fields.BATCH} samples of {stiff_fields.SIZE}, a clock for each"
    )
    batch(theirs)
    print("Accepted steps, milliseconds, largest relative error of the end")
    curves(theirs)


if __name__ == "__main__":
    main()
