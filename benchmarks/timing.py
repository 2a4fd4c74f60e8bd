"""Alternating timings, and the tables that show them; needs numpy alone."""

import time

import numpy as np


def stopwatch(function, repetitions=3):
    """Returns a function that times `function` and lists the seconds."""

    def run():
        seconds = []
        for _ in range(repetitions):
            start = time.perf_counter()
            function()
            seconds.append(time.perf_counter() - start)
        return seconds

    return run


def alternate(runs, rounds):
    """Runs the contenders in turn, so that drift of the machine hits all.

    Args:
        runs: Dict of functions without argument that return seconds.
        rounds: Integer, how often each runs.

    Returns:
        Dict of arrays of seconds, with the keys of `runs`.
    """
    seconds = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            seconds[name].extend(run())
    return {name: np.array(values) for name, values in seconds.items()}


def print_table(title, header, rows):
    """Prints rows of strings under a header, columns aligned."""
    widths = [
        max(map(len, column)) for column in zip(header, *rows, strict=True)
    ]
    print(f"\n{title}")
    for row in (header, ["-" * width for width in widths], *rows):
        cells = [c.rjust(w) for c, w in zip(row, widths, strict=True)]
        print("  ".join([row[0].ljust(widths[0]), *cells[1:]]))
