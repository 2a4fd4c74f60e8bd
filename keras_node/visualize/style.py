"""Axes, colours and grids for all plots."""

import numpy as np

try:
    from matplotlib import pyplot as plt
except ImportError as error:
    raise ImportError(
        "`keras_node.visualize` needs matplotlib, which could not be "
        f"imported. Install it: `pip install matplotlib`. Received: {error}"
    ) from error

# Okabe and Ito's palette, which the colour-blind can tell apart.
COLORS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#000000",
)


def axes(ax, **size):
    """Returns `ax`, or the `Axes` of a new figure for `None`.

    Args:
        ax: `matplotlib.axes.Axes` or `None`.
        **size: `figsize=` of a new figure, in inches.
    """
    return new_axes(1, **size)[0] if ax is None else ax


def new_axes(count, **size):
    """Returns an array of `count` `Axes` side by side, in a new figure."""
    _, new = plt.subplots(1, count, squeeze=False, layout="constrained", **size)
    return new[0]


def color(i):
    """Returns the `i`-th colour, from the start again after the last."""
    return COLORS[i % len(COLORS)]


def grid(x_limits, y_limits, num):
    """Returns the centres of cells that tile a rectangle.

    Args:
        x_limits: Tuple of two increasing floats.
        y_limits: Tuple of two increasing floats.
        num: Positive integer, the cells along each side.

    Returns:
        Tuple of x `(num,)`, y `(num,)` and points `(num * num, 2)`, x
        running fastest.

    Raises:
        ValueError: If limits do not increase.
    """
    sides = []
    for name, limits in (("x_limits", x_limits), ("y_limits", y_limits)):
        low, high = limits
        if not low < high:
            raise ValueError(
                f"`{name}` must be two floats, the smaller first. "
                f"Received: {name}={limits}"
            )
        sides.append(low + (high - low) * (np.arange(num) + 0.5) / num)
    x, y = np.meshgrid(*sides)
    return *sides, np.stack([x.ravel(), y.ravel()], axis=1)
