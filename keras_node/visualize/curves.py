"""Plots of function evaluations: in training, and against the error."""

import math

from keras_node.diagnostics import WorkPrecisionReport
from keras_node.visualize import style

_SUFFIXES = {"nfe_backward": "--", "nfe": "-"}
_QUANTITIES = {
    "error": "relative error of the outputs",
    "gradient_error": "relative error of the gradient",
}
_MARKERS = "osD^vP"


def nfe_history(history, ax=None):
    """Draws how the numbers of function evaluations change in training.

    Each layer has a colour; forward passes are solid lines, backward ones
    dashed, and those of validation, which has no backward pass, are paler.

    Args:
        history: `keras.callbacks.History` that `fit` returned, or its dict.
        ax: `matplotlib.axes.Axes`, or `None` (default) for a new figure.

    Returns:
        The `Axes`.

    Raises:
        TypeError: If `history` is neither.
        ValueError: If there are no metrics in it that end in `nfe` or
            `nfe_backward`.

    Example:
    >>> ax = keras_node.visualize.nfe_history(
    ...     {"loss": [1.0, 0.5], "ode_layer_nfe": [14.0, 20.0]}
    ... )
    """
    logs = getattr(history, "history", history)
    if not isinstance(logs, dict):
        raise TypeError(
            "`history` must be what `fit` returned, or its dict. "
            f"Received: history={history!r} of type {type(history).__name__}"
        )
    curves = {name: _curve(name) for name in logs if _curve(name)}
    # Validation has no backward pass: Keras shows zeros.
    curves = {name: curve for name, curve in curves.items() if any(logs[name])}
    if not curves:
        raise ValueError(
            "`history` must hold metrics that end in `nfe` or `nfe_backward`, "
            "which a model with an `ODELayer`, `CNFBijector` or `LatentODE` "
            f"has. Received: history of {sorted(logs)}"
        )
    layers = list(dict.fromkeys(layer for layer, _, _ in curves.values()))
    ax = style.axes(ax, figsize=(6.0, 3.5))
    for name, (layer, line, is_validation) in curves.items():
        values = logs[name]
        ax.plot(
            range(1, len(values) + 1),
            values,
            line,
            marker=".",
            color=style.color(layers.index(layer)),
            alpha=0.45 if is_validation else 1.0,
            label=name,
        )
    ax.set(xlabel="epoch", ylabel="function evaluations")
    ax.set_ylim(bottom=0.0)
    ax.locator_params(axis="x", integer=True)
    ax.legend(frameon=False)
    return ax


def work_precision(report, quantity="error", ax=None):
    """Draws error against function evaluations, for each solver.

    Failed solves and errors of 0 are left out.

    Args:
        report: `WorkPrecisionReport` of `diagnostics.work_precision`.
        quantity: `"error"` (default) of the outputs, or `"gradient_error"`.
        ax: `matplotlib.axes.Axes`, or `None` (default) for a new figure.

    Returns:
        The `Axes`.

    Raises:
        TypeError: If `report` is something else.
        ValueError: If `quantity` is neither.
    """
    if not isinstance(report, WorkPrecisionReport):
        raise TypeError(
            "`report` must be what `diagnostics.work_precision` returned. "
            f"Received: report={report!r} of type {type(report).__name__}"
        )
    if quantity not in _QUANTITIES:
        raise ValueError(
            f"`quantity` must be one of {sorted(_QUANTITIES)}. "
            f"Received: quantity={quantity!r}"
        )
    ax = style.axes(ax, figsize=(5.0, 4.0))
    names = dict.fromkeys(row.solver for row in report.rows)
    for i, name in enumerate(names):
        rows = [row for row in report.rows if row.solver == name]
        ax.plot(
            *_points(rows, quantity),
            marker=_MARKERS[i % len(_MARKERS)],
            color=style.color(i),
            label=name,
        )
    ax.plot(
        *_points([report.own], quantity),
        "*",
        color="black",
        markersize=13,
        label=f"{report.own.solver} (own)",
    )
    ax.set(xscale="log", yscale="log")
    ax.set(xlabel="function evaluations", ylabel=_QUANTITIES[quantity])
    ax.legend(frameon=False)
    return ax


def _curve(name):
    """Returns the layer, the line style, and whether it is of validation.

    Returns `None` if it is not a number of function evaluations.
    """
    key = name.removeprefix("val_")
    for suffix, line in _SUFFIXES.items():
        if key.endswith(suffix):
            return key.removesuffix(suffix), line, key != name
    return None


def _points(rows, quantity):
    """Returns evaluations and errors, sorted by evaluations."""
    points = sorted(
        (row.nfe, getattr(row, quantity))
        for row in rows
        if math.isfinite(getattr(row, quantity)) and getattr(row, quantity) > 0
    )
    return [nfe for nfe, _ in points], [error for _, error in points]
