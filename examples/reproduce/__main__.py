"""Reproduces the paper's tables and figures, one command each.

    python -m examples.reproduce table1 --mnist mnist.npz
    python -m examples.reproduce figure4 --smoke

Each writes a log (a line an epoch, a training or a measurement) and pictures,
and goes on where it was interrupted. Reference:

- [Chen et al., 2018](https://arxiv.org/abs/1806.07366)
"""

import argparse
import importlib
import pathlib
import sys

from examples.reproduce import FOLDER, PAGES

EXPERIMENTS = {
    "table1": "MNIST: four networks",
    "memory": "megabytes over depth and steps (table 1)",
    "figure3": "error, time and evaluations on MNIST",
    "figure4": "planar flows fitted to known densities",
    "figure5": "flows by maximum likelihood",
    "table2": "spirals beyond the times of training",
    "poisson": "event times and their intensity (figure 7)",
    "limitations": "batches, uniqueness, tolerances and drift (section 6)",
    "page": "write the page's tables from the logs",
}


def parse_arguments(argv=None):
    parser = argparse.ArgumentParser(
        prog="python -m examples.reproduce",
        description=__doc__.split("\n\n", maxsplit=1)[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    texts = [f"{name}: {text}" for name, text in EXPERIMENTS.items()]
    add("name", choices=list(EXPERIMENTS), help="; ".join(texts))
    add("--smoke", action="store_true", help="little of all, in runs/smoke")
    add(
        "--mnist", help="an .npz of MNIST as Keras has it; downloaded if absent"
    )
    add("--seeds", type=int, nargs="+", help="those of the page if left out")
    add("--only", nargs="+", help="networks of table1, variants of figure3")
    add("--epochs", type=int, help="of table1, table2 and poisson")
    add(
        "--logs",
        type=pathlib.Path,
        help="folder of logs and pictures: docs/reproduction, which has the "
        "page's, unless given; runs/smoke with --smoke",
    )
    add(
        "--runs",
        type=pathlib.Path,
        default=FOLDER.parent / "runs",
        help="folder of models, from which an interrupted run goes on",
    )
    options = parser.parse_args(argv)
    if options.smoke:
        options.runs /= "smoke"
    if options.logs is None:
        options.logs = options.runs if options.smoke else PAGES
    return options


def sizes_of(folder):
    """Returns the sizes of the logs in a folder, by name."""
    return {path.name: path.stat().st_size for path in folder.glob("*.csv")}


def main(argv=None):
    """Runs one command, and says where its logs are."""
    options = parse_arguments(argv)
    module = importlib.import_module(f"examples.reproduce.{options.name}")
    before = sizes_of(options.logs)
    try:
        module.main(options)
    except KeyboardInterrupt:
        sys.exit("Interrupted: the same command goes on from the logs.")
    except FileNotFoundError as error:
        sys.exit(str(error))
    if options.name == "page":
        return
    if sizes_of(options.logs) == before:
        print("The logs have all of it: --logs FOLDER begins others.")
    print(f"Logs and pictures are in {options.logs}.")


if __name__ == "__main__":
    main()
