"""One style for all pictures: colours, type, and how they are saved."""

import pathlib

from cycler import cycler
from matplotlib import rcParams
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from keras_node.visualize.style import COLORS

STYLE = {
    "axes.axisbelow": True,
    "axes.labelsize": 9,
    "axes.prop_cycle": cycler(color=COLORS),
    "axes.titlesize": 10,
    "grid.alpha": 0.3,
    "legend.edgecolor": "none",
    "legend.fancybox": False,
    "legend.fontsize": 8,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
}


def new(width, height):
    """Returns an empty figure of a size in inches."""
    # For good: axes and legends ask for it when they are made.
    rcParams.update(STYLE)
    return Figure(figsize=(width, height), layout="constrained")


def label_plainly(axis, subs=(1, 3)):
    """Labels one logarithmic axis in numbers, those of `subs` of a decade."""
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())


def share_legend(figure, axis):
    """Puts the legend of one of its axes above a figure."""
    lines, labels = axis.get_legend_handles_labels()
    figure.legend(lines, labels, loc="outside upper center", ncols=len(labels))


def save(figure, path):
    """Writes a picture, at 110 dots an inch."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    announce(path)


def announce(path):
    """Prints that a picture was written."""
    print(f"Wrote {path}.", flush=True)
