"""Step size control at equal error: curves of error against evaluations.

On the non-stiff problems of DETEST and on networks, trained and not
(`train_fields.py`), in float64, beside the implementations of SciPy and
diffrax. "At equal error" is the geometric mean, over the problems, of the
evaluations that an error takes over those that the first contender takes for
it, both interpolated on logarithmic axes. Solves that failed are left out.

    python benchmarks/train_fields.py fields.npz
    python benchmarks/controller.py fields.npz --picture
"""

import argparse
import functools
import os
import pathlib
import subprocess
import sys
import tempfile

import fields
import numpy as np
import protocol
import reference
import tensorflow as tf
import timing

import keras_node

FOLDER = pathlib.Path(__file__).parent
PICTURE = FOLDER.parent / "docs" / "controller.png"
SAFETY = {"tsit5": (0.8, 0.7, 0.9), "dopri5": (0.8,)}


def with_scipy(problem, method, rtol, atol):
    """Returns the last state and the number of evaluations."""
    return reference.solve(
        functools.partial(problem.f, np),
        problem.y0,
        (0.0, problem.end),
        method,
        rtol,
        atol,
    )


def with_diffrax(path, python):
    """Returns `{name: (last states, numbers of evaluations)}`."""
    with tempfile.TemporaryDirectory() as folder:
        results = os.path.join(folder, "results.npz")
        subprocess.run(
            [python, FOLDER / "worker_diffrax_curves.py", path, results],
            check=True,
            env=protocol.quiet_environment(),
        )
        with np.load(results) as arrays:
            names = {key.split("/")[0] for key in arrays}
            return {n: (arrays[f"{n}/y"], arrays[f"{n}/counts"]) for n in names}


def error_of(y, exact):
    """Root mean square over the elements, relative to `1 + |exact|`."""
    return np.sqrt(np.mean(((y - exact) / (1 + np.abs(exact))) ** 2))


def ours(problem, method, safety):
    """Returns a function of the tolerance: last state and evaluations."""
    solver_class = type(keras_node.solvers.get(method))
    solver = solver_class(safety_factor=safety, max_num_steps=2**16)
    solver.rtol = tf.Variable(0.0, trainable=False, dtype=tf.float64)
    solver.atol = tf.Variable(0.0, trainable=False, dtype=tf.float64)

    @tf.function(autograph=False)
    def solve():
        results = keras_node.odeint(
            functools.partial(problem.f, tf),
            tf.constant(problem.y0),
            (0.0, problem.end),
            solver,
        )
        counts = results.diagnostics.num_ode_fn_evaluations
        return results.states[-1], counts

    def run(tolerance):
        solver.rtol.assign(tolerance)
        solver.atol.assign(tolerance)
        y, count = solve()
        return y.numpy(), int(count)

    return run


def measure(problems, diffrax):
    """Returns `{contender: {problem: [(evaluations, error)]}}`."""
    curves = {}
    for name, problem in problems.items():
        # The kinks of ReLU hold a high order up.
        tightest = 1e-9 if name.startswith("mnist") else 1e-12
        exact, _ = with_scipy(problem, "DOP853", tightest, 0.1 * tightest)

        def add(contender, results, name=name, exact=exact):
            points = [(count, error_of(y, exact)) for y, count in results]
            points = np.array(points, float)
            points[np.isnan(points[:, 1])] = np.nan
            curves.setdefault(contender, {})[name] = points

        for method, factors in SAFETY.items():
            for safety in factors:
                run = ours(problem, method, safety)
                add(
                    f"{method}, safety {safety}",
                    [run(tolerance) for tolerance in fields.TOLERANCES],
                )
        add(
            "SciPy RK45",
            [with_scipy(problem, "RK45", t, t) for t in fields.TOLERANCES],
        )
        if diffrax:
            add("diffrax Tsit5", zip(*diffrax[name], strict=True))
        print(name, flush=True)
    return curves


def ratio_at_equal_error(points, baseline):
    """Returns the mean logarithm of the ratio of evaluations."""
    counts, errors = np.log(np.maximum(points, 1e-12)).T
    order = np.argsort(baseline[:, 1])
    x, y = np.log(np.maximum(baseline[order], 1e-12)).T[::-1]
    inside = (errors > x[0]) & (errors < x[-1])
    if not inside.any():
        return np.nan
    return np.mean(counts[inside] - np.interp(errors[inside], x, y))


def table(curves, names, first):
    """Returns rows of the ratios to the first contender on some problems."""
    rows = []
    for contender, points in curves.items():
        logarithms = [
            np.nanmean(np.log(points[n] / curves[first][n]), axis=0)
            for n in names
        ]
        equal = [
            ratio_at_equal_error(points[n], curves[first][n]) for n in names
        ]
        count, error = np.exp(np.mean(logarithms, axis=0))
        at_equal_error = np.exp(np.nanmean(equal))
        rows.append(
            (
                contender,
                f"{count:.2f}",
                f"{error:.2f}",
                f"{at_equal_error:.2f}",
            )
        )
    return rows


def draw(curves, names, path):
    """Draws the curves of some problems."""
    sys.path.append(str(FOLDER.parent / "examples"))
    import pictures

    columns = -(-len(names) // 2)
    figure = pictures.new(3 * columns, 6)
    axes = figure.subplots(2, columns)
    for axis in axes.flat[len(names) :]:
        axis.set_visible(False)
    for axis, name in zip(axes.flat, names, strict=False):
        for contender, points in curves.items():
            axis.loglog(*points[name].T, ".-", lw=1, ms=3, label=contender)
        axis.set_title(name.replace("_", " "))
        pictures.label_plainly(axis.xaxis, subs=(1, 2, 5))
        axis.grid()
    pictures.share_legend(figure, axes[0, 0])
    axes[1, 0].set(xlabel="evaluations", ylabel="error")
    pictures.save(figure, path)


def main():
    """Prints the tables, and draws the networks' curves."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("fields", help="what `train_fields.py` wrote")
    parser.add_argument(
        "--picture", action="store_true", help=f"draw docs/{PICTURE.name}"
    )
    parser.add_argument(
        "--jax-python",
        default=os.environ.get("KERAS_NODE_JAX_PYTHON"),
        help="has diffrax; without it the others run",
    )
    options = parser.parse_args()
    if not os.path.exists(options.fields):
        parser.error(f"no {options.fields}: `train_fields.py` writes it")
    trained = fields.load(options.fields)
    detest = fields.detest_problems()
    problems = detest | trained
    diffrax = None
    if options.jax_python:
        diffrax = with_diffrax(options.fields, options.jax_python)
    curves = measure(problems, diffrax)
    networks = list(trained)
    first = next(iter(curves))
    for title, names in (
        ("DETEST", list(detest)),
        (f"{len(networks)} networks", networks),
    ):
        timing.print_table(
            f"{title}, over {first}",
            ("", "evaluations", "error", "evaluations at equal error"),
            table(curves, names, first),
        )
    if options.picture:
        draw(curves, networks, PICTURE)


if __name__ == "__main__":
    main()
