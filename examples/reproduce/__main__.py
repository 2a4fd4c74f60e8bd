"""Reproduces the paper's tables and figures, one command each.

    python -m examples.reproduce table1 --mnist mnist.npz
    python -m examples.reproduce figure4 --smoke

Each writes a log (a line an epoch or a solve) and pictures, and goes on where
it was interrupted. Reference:

- [Chen et al., 2018](https://arxiv.org/abs/1806.07366)
"""

import argparse
import importlib
import pathlib

import examples.reproduce

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
    root = examples.reproduce.FOLDER.parent
    add("--logs", type=pathlib.Path, help="of lines and pictures")
    add("--runs", type=pathlib.Path, default=root / "runs", help="of models")
    options = parser.parse_args(argv)
    if options.smoke:
        options.runs /= "smoke"
    if options.logs is None:
        pages = root / "docs" / "reproduction"
        options.logs = options.runs if options.smoke else pages
    return options


def main(argv=None):
    options = parse_arguments(argv)
    module = importlib.import_module(f"examples.reproduce.{options.name}")
    module.main(options)


if __name__ == "__main__":
    main()
