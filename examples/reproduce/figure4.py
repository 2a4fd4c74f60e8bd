"""Figure 4: continuous and discrete planar flows, fitted to known densities.

`KL(q || p)` against the number of units `M` or of layers `K`, three seeds. The
targets are `cnf_vs_nf.py`'s, normalized, so that 0 is the best there is.
"""

import time

import cnf_vs_nf
import numpy as np
import pictures
from matplotlib.ticker import NullLocator

from examples.reproduce.logs import Log

COLUMNS = "target kind size seed steps kl seconds".split()
STEPS = {"CNF": 10_000, "NF": 20_000}
KINDS = tuple(STEPS)
SEEDS = (0, 1, 2)


def fit(case, steps, options):
    """Fits a flow; returns its divergence in nats, and the seconds it took.

    Samples of the first seed's flow are kept for the picture.
    """
    arguments = cnf_vs_nf.parse_arguments([])
    arguments.seed = case["seed"]
    arguments.cnf_steps = arguments.nf_steps = steps
    log_prob = cnf_vs_nf.normalized(cnf_vs_nf.TARGETS[case["target"]])
    start = time.perf_counter()
    flow, _ = cnf_vs_nf.fit(case["kind"], case["size"], log_prob, arguments)
    seconds = time.perf_counter() - start
    if case["seed"] == SEEDS[0]:
        options.runs.mkdir(parents=True, exist_ok=True)
        samples = flow.sample(20_000, seed=2).numpy()
        np.save(samples_path(case, options), samples.astype("float16"))
    return cnf_vs_nf.divergence(flow, log_prob), seconds


def samples_path(case, options):
    """Returns where the samples of a flow are kept."""
    target = case["target"].replace(" ", "-")
    name = f"figure4-{target}-{case['kind']}-{case['size']:.0f}"
    return options.runs / f"{name}.npy"


def cases(options):
    """Returns the flows to fit, as dicts."""
    sizes = (2,) if options.smoke else cnf_vs_nf.SIZES
    return [
        {"target": target, "kind": kind, "size": size, "seed": seed}
        for seed in options.seeds or SEEDS[: 1 if options.smoke else None]
        for target in list(cnf_vs_nf.TARGETS)[: 1 if options.smoke else None]
        for size in sizes
        for kind in KINDS
    ]


def draw(rows, options):
    """Draws a row for each target: densities, and the divergences."""
    targets = list(dict.fromkeys(row["target"] for row in rows))
    sizes = sorted({int(row["size"]) for row in rows})
    columns = 2 * len(sizes) + 2
    figure = pictures.new(1.8 * columns, 1.9 * len(targets))
    axes = figure.subplots(len(targets), columns, squeeze=False)
    points, _ = cnf_vs_nf.grid()
    side = cnf_vs_nf.SIDE
    for row, target in zip(axes, targets, strict=True):
        log_prob = cnf_vs_nf.normalized(cnf_vs_nf.TARGETS[target])(points)
        density = np.exp(log_prob).reshape(cnf_vs_nf.GRID, cnf_vs_nf.GRID)
        row[0].imshow(density, origin="lower", extent=(-side, side) * 2)
        row[0].set_ylabel(target)
        flows = [(kind, size) for kind in KINDS[::-1] for size in sizes]
        for axis, (kind, size) in zip(row[1:-1], flows, strict=True):
            case = {"target": target, "kind": kind, "size": size}
            samples = np.load(samples_path(case, options)).astype("float32")
            axis.hist2d(*samples.T, bins=100, range=[[-side, side]] * 2)
            axis.set_aspect("equal")
        for axis in row[:-1]:
            axis.set(xticks=[], yticks=[])
        draw_divergences(row[-1], rows, target, sizes)
    titles = ["target", *[f"NF, K = {s}" for s in sizes]]
    titles += [f"CNF, M = {s}" for s in sizes]
    for axis, title in zip(axes[0], [*titles, "KL(q || p), nats"], strict=True):
        axis.set_title(title)
    axes[0, -1].legend()
    axes[-1, -1].set_xlabel("K or M")
    pictures.save(figure, options.logs / "figure4.png")


def draw_divergences(axis, rows, target, sizes):
    """Draws the mean over the seeds, and every seed."""
    for kind, color in zip(KINDS, pictures.COLORS, strict=False):
        found = [
            [
                row["kl"]
                for row in rows
                if (row["target"], row["kind"], row["size"])
                == (target, kind, size)
            ]
            for size in sizes
        ]
        axis.plot(sizes, list(map(np.mean, found)), c=color, label=kind)
        for size, values in zip(sizes, found, strict=True):
            axis.plot([size] * len(values), values, ".", c=color, ms=5)
    axis.set_xscale("log")
    axis.set_yscale("symlog", linthresh=1e-2)
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_xticks(sizes, labels=sizes)


def main(options):
    """Fits what the log lacks, and draws all of it."""
    log = Log(options.logs / "figure4.csv", COLUMNS)
    for case in cases(options):
        steps = 10 if options.smoke else STEPS[case["kind"]]
        if not log.rows(**case, steps=steps):
            kl, seconds = fit(case, steps, options)
            log.append(**case, steps=steps, kl=kl, seconds=seconds)
    rows = log.rows()
    if all(samples_path(case, options).exists() for case in rows):
        draw(rows, options)
    else:
        print(f"figure4.png stays: its samples are not in {options.runs}.")
