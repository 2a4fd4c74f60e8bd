"""Flow matching beside torchcfm: three problems, two couplings.

Both train the same network, three hidden layers of 64 of state and time, from
the same weights, on the same batches in the same order, with the same
optimizer, on one thread, and carry the same points to the target by 100 steps
of Euler's method. Base samples, times and coupling are each library's own. Logs
a line for each run, in turns, goes on where the log ends, and prints the table.
The seconds of the table are those of the processor, which other processes
lengthen less than those of the clock; the log has both.

    python benchmarks/couplings.py --torch-python ~/torch/bin/python

Reference:
- [Tong et al., 2024](https://arxiv.org/abs/2302.00482)
"""

import argparse
import functools
import itertools
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import coupling_problems as problems
import numpy as np
import protocol
import transport

FOLDER = pathlib.Path(__file__).parent
sys.path.append(str(FOLDER.parent / "examples"))
from csv_log import append, keep_smoke_apart, read  # noqa: E402

LOG = FOLDER.parent / "docs" / "couplings.csv"
WORKERS = {
    "keras_node": "worker_flow_matching.py",
    "torchcfm": "worker_torchcfm.py",
}
ONE_THREAD = {
    "TF_NUM_INTRAOP_THREADS": "1",
    "TF_NUM_INTEROP_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}
# What tells a run from another.
KEYS = ("problem", "coupling", "library", "seed", "steps", "points")


def train(library, problem, coupling, seed, options):
    """Trains in a process of its own; returns the arrays it wrote."""
    is_ours = library == "keras_node"
    python = sys.executable if is_ours else options.torch_python
    script = str(FOLDER / WORKERS[library])
    with tempfile.TemporaryDirectory() as folder:
        case = os.path.join(folder, "case.npz")
        results = os.path.join(folder, "results.npz")
        problems.write_case(
            case, problem, coupling, seed, options.steps, options.points
        )
        answer = subprocess.run(
            [python, script, case, results],
            capture_output=True,
            text=True,
            env={**protocol.quiet_environment(), **ONE_THREAD},
        )
        if answer.returncode:
            sys.exit(
                f"{answer.stderr}\n{WORKERS[library]} failed in {python}; "
                "README.md says what to install there."
            )
        with np.load(results) as arrays:
            return dict(arrays)


@functools.cache
def true_points(problem, seed, count):
    """Returns points of the target, their floor, and the least energy.

    The floor is the distance of as many others, also of the target; the least
    energy the squared distance of the points that the workers start from.
    """
    source, target = problems.PROBLEMS[problem]
    start = problems.sample(source, count, (seed, 1))
    true = problems.sample(target, count, (seed, 4))
    others = problems.sample(target, count, (seed, 5))
    return (
        true,
        transport.squared_wasserstein(others, true) ** 0.5,
        transport.squared_wasserstein(start, true),
    )


def run(library, problem, coupling, seed, options):
    """Trains and measures; returns a row of the log."""
    results = train(library, problem, coupling, seed, options)
    path = results["path"].astype("float64")
    true, floor, least = true_points(problem, seed, options.points)
    numbers = {
        "w2": transport.squared_wasserstein(path[-1], true) ** 0.5,
        "floor": floor,
        "npe": transport.normalized_path_energy(path, least),
        "energy": transport.path_energy(path),
        "least_energy": least,
        "seconds": results["seconds"],
        "cpu_seconds": results["cpu_seconds"],
    }
    keys = (problem, coupling, library, seed, options.steps, options.points)
    rounded = {name: f"{value:.4f}" for name, value in numbers.items()}
    return dict(zip(KEYS, map(str, keys), strict=True)) | rounded


def markdown(rows):
    """Returns the table of a log, with means and deviations over the seeds."""
    libraries = list(dict.fromkeys(row["library"] for row in rows))

    def cell(column, **keys):
        found = [row for row in rows if keys.items() <= row.items()]
        values = [float(row[column]) for row in found]
        if column == "cpu_seconds":
            return f"{np.median(values):.1f}"
        if len(values) == 1:
            return f"{values[0]:.3f}"
        return f"{np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}"

    titles = {"w2": "W2", "npe": "NPE", "cpu_seconds": "seconds"}
    columns = [*itertools.product(titles, libraries)]
    header = [f"{titles[column]}, {name}" for column, name in columns]
    header = ["problem", "coupling", *header, "W2, floor"]
    lines = [header, ["---"] * len(header)]
    for case in dict.fromkeys((r["problem"], r["coupling"]) for r in rows):
        keys = dict(zip(KEYS, case, strict=False))
        cells = [cell(column, library=name, **keys) for column, name in columns]
        name = case[1].replace("_", " ")
        lines.append(
            [case[0], name, *cells, cell("floor", library=libraries[0], **keys)]
        )
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def parse_arguments(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n", maxsplit=1)[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--torch-python",
        default=os.environ.get("KERAS_NODE_TORCH_PYTHON"),
        help="has torchcfm; without it keras_node runs alone",
    )
    parser.add_argument("--steps", type=int, default=2_000, help="of training")
    parser.add_argument(
        "--points", type=int, default=2_000, help="on which W2 depends"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    for plural, names in (
        ("problems", list(problems.PROBLEMS)),
        ("couplings", problems.COUPLINGS),
    ):
        parser.add_argument(
            f"--{plural}", nargs="+", choices=names, default=names
        )
    parser.add_argument("--log", type=pathlib.Path, default=LOG)
    parser.add_argument(
        "--smoke", action="store_true", help="one case, a blink, to try it"
    )
    arguments = parser.parse_args(argv)
    if arguments.torch_python and not shutil.which(arguments.torch_python):
        parser.error(f"--torch-python: no {arguments.torch_python}")
    keep_smoke_apart(arguments, parser)
    if arguments.smoke:
        arguments.steps, arguments.points, arguments.seeds = 4, 50, [0]
        arguments.problems = arguments.problems[-1:]
        arguments.couplings = arguments.couplings[-1:]
    return arguments


def main(argv=None):
    options = parse_arguments(argv)
    libraries = WORKERS if options.torch_python else ["keras_node"]
    sizes = options.steps, options.points
    for seed, *case, library in itertools.product(
        options.seeds, options.problems, options.couplings, libraries
    ):
        keys = [*case, library, *map(str, (seed, *sizes))]
        done = [[row[key] for key in KEYS] for row in read(options.log)]
        if keys not in done:
            row = run(library, *case, seed, options)
            append(options.log, row)
            print(*row.values(), flush=True)
    print(f"All runs that are in {options.log}:")
    rows = [
        row
        for row in read(options.log)
        if (row["steps"], row["points"]) == tuple(map(str, sizes))
    ]
    print(markdown(rows))


if __name__ == "__main__":
    main()
