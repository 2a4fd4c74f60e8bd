"""Every row of the benchmark, beside the peers, as a table and a picture.

Each contender has the same weights and tolerances and two threads, and lives in
a process of its own; they take turns. A training step is the solve and all its
gradients, compiled and warm. "Ours" is the default settings as a graph, "best"
the faster of graph and XLA; the ratio is to the fastest peer whose gradients
agree. What is measured is added to a file, from which a later run goes on, and
`--write` makes the documentation's table, picture and log of it. What other
processes disturbed is not kept: a later run measures it again.

    python benchmarks/run.py
    python benchmarks/run.py --rows mlp_small conv --curves --no-latent
    python benchmarks/run.py --write
"""

import argparse
import json
import os
import pathlib
import sys

import growth
import latent_step
import numpy as np
import protocol
import quiet
import reference
import report
import rows
import timing
import workloads

WRONG = 0.3  # Relative difference of gradients that no tolerance explains.
LONGEST = 1.0  # Seconds that a contender may take in a round.


def gradient_difference(arrays, reference):
    """Norm of the difference over that of the reference, the worst array."""
    return max(
        (
            np.linalg.norm(arrays[name] - value) / np.linalg.norm(value)
            for name, value in reference.items()
            if name != "solution" and name in arrays
        ),
        default=0.0,
    )


def error_of(arrays, exact):
    """Returns the relative error of the last state."""
    end = arrays["solution"][-1][..., : exact.shape[-1]]
    return np.linalg.norm(end - exact) / np.linalg.norm(exact)


def start(row, pythons):
    """Starts and warms up the contenders of a row, one after the other.

    Returns:
        Dicts of workers, of answers and of arrays. A contender that cannot
        run is left out, and stderr says why.
    """
    workers, answers, arrays = {}, {}, {}
    for name in row.contenders:
        environment, script, arguments = rows.CONTENDERS[name]
        worker = protocol.Worker(pythons[environment], script, arguments)
        try:
            answers[name], arrays[name] = worker.set_up(row.workload)
        except RuntimeError as error:
            print(f"{name} is left out: {error}", file=sys.stderr)
            continue
        workers[name] = worker
    return workers, answers, arrays


def run_of(worker, repetitions):
    """Returns the worker's timed run, of about `LONGEST` seconds at most."""
    (seconds,) = worker.run(1)
    count = int(np.clip(LONGEST / seconds, 1, repetitions))
    return lambda: worker.run(count)


def compare(row, options, pythons):
    """Times one row; returns what is known of each contender."""
    workload = workloads.make(row.workload)
    workers, answers, arrays = start(row, pythons)
    runs = {
        name: run_of(worker, options.repetitions)
        for name, worker in workers.items()
    }
    seconds = timing.alternate(runs, options.rounds)
    for worker in workers.values():
        worker.close()
    exact = reference.end_of(workload)
    first = next(filter(rows.is_peer, workers), next(iter(workers)))
    results = {}
    for name, values in seconds.items():
        difference = gradient_difference(arrays[name], arrays[first])
        results[name] = {
            **answers[name],
            "median": float(np.median(values)),
            "best": float(values.min()),
            "difference": float(difference),
            "agrees": bool(difference < WRONG),
        }
        if name != "bare loop":
            results[name]["error"] = float(error_of(arrays[name], exact))
    return results


def compare_latent(tolerances, options):
    """Times the latent ODE; returns `None` where its peer cannot run."""
    try:
        return latent_step.measure(
            tolerances, options.torch_python, options.rounds
        )
    except RuntimeError as error:
        print(f"The latent ODE is left out: {error}", file=sys.stderr)
        return None


def parse_arguments():
    variables = os.environ
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n", maxsplit=1)[0]
    )
    parser.add_argument(
        "--torch-python",
        default=variables.get("KERAS_NODE_TORCH_PYTHON", sys.executable),
        help="interpreter with torch, torchdiffeq and torchode",
    )
    parser.add_argument(
        "--jax-python",
        default=variables.get("KERAS_NODE_JAX_PYTHON", sys.executable),
        help="interpreter with jax, diffrax and equinox",
    )
    names = [row.workload for row in rows.ROWS]
    parser.add_argument("--rows", nargs="*", choices=names, default=names)
    curves = list(growth.CURVES)
    parser.add_argument("--curves", nargs="*", choices=curves, default=curves)
    parser.add_argument("--no-latent", dest="latent", action="store_false")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--results", default="benchmark.json")
    parser.add_argument("--again", action="store_true", help="measure all anew")
    parser.add_argument(
        "--force", action="store_true", help="though it is busy"
    )
    parser.add_argument(
        "--write", action="store_true", help="write the documentation's files"
    )
    return parser.parse_args()


def main():
    """Measures what the file of results lacks."""
    options = parse_arguments()
    pythons = {
        "tf": sys.executable,
        "torch": options.torch_python,
        "jax": options.jax_python,
    }
    path = pathlib.Path(options.results)
    results = {"rows": {}, "latent": {}, "curves": {}}
    if path.exists() and not options.again:
        results = json.loads(path.read_text())

    def measure(kind, name, function):
        """Returns what the file has, else measures and keeps it."""
        if name in results[kind]:
            print(f"\nFrom {path}:", end="")
            return results[kind][name]
        quiet.require(options.force)
        print(f"\nMeasuring {name}", file=sys.stderr, flush=True)
        with quiet.Watch() as watch:
            result = function()
        if result is None:
            return None
        if watch.share > quiet.BUSY and not options.force:
            print(
                f"\nNot kept, since other processes kept {watch.share:.2f} "
                "cores busy: run this again.",
                end="",
            )
            return result
        results[kind][name] = result
        path.write_text(json.dumps(results, indent=1))
        return result

    for row in rows.ROWS:
        if row.workload in options.rows:
            result = measure(
                "rows",
                row.workload,
                lambda row=row: compare(row, options, pythons),
            )
            report.print_row(row, result)
    for tolerances in latent_step.TOLERANCES if options.latent else ():
        result = measure(
            "latent",
            latent_step.name_of(tolerances),
            lambda tolerances=tolerances: compare_latent(tolerances, options),
        )
        if result:
            latent_step.print_results(tolerances, result)
    for name in options.curves:
        curve = measure(
            "curves", name, lambda name=name: growth.measure(name, pythons)
        )
        report.print_curve(name, curve)
    if options.write:
        report.write(results)


if __name__ == "__main__":
    main()
