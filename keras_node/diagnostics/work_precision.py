"""The cost of accuracy, and the dependence of a model on its solver."""

import dataclasses
import math
import typing
import warnings

from keras_node import adjoints
from keras_node.common import solving_layers
from keras_node.diagnostics import evaluation, solver_measurement
from keras_node.diagnostics.table import number, paragraph, percent, table
from keras_node.solvers import Dopri8, get

# Tolerances of the reference, near the rounding of the dtype.
_TOLERANCES = {"float32": (1e-6, 1e-8), "float64": (1e-10, 1e-12)}


class WorkPrecision(typing.NamedTuple):
    """The cost and the error of one solver.

    Attributes:
        solver: String, the name of its class, with its `step_size` if it is
            fixed.
        rtol: Float, or `None` for a solver that does not adapt its steps.
        nfe: Float, function evaluations of the forward pass, summed over the
            layers that solve.
        error: Float, the 2-norm of the outputs' difference from those of the
            reference, relative to the latter; NaN if the solve failed.
        gradient_error: Float, the same for the gradient.
    """

    solver: str
    rtol: float | None
    nfe: float
    error: float
    gradient_error: float


@dataclasses.dataclass(frozen=True)
class WorkPrecisionReport:
    """The result of `work_precision`; `print` shows it as a table.

    Attributes:
        rows: List of `WorkPrecision`, by solver and tolerance.
        own: `WorkPrecision` of the model with its own solvers.
        reference: String, the solver that all are compared with.
        threshold: Float, the most that `own.error` may be.
    """

    rows: list
    own: WorkPrecision
    reference: str
    threshold: float

    @property
    def depends_on_solver(self):
        """Whether the outputs are off by more than the threshold, or NaN."""
        return not self.own.error <= self.threshold

    @property
    def verdict(self):
        """A sentence or two about the model's own solver."""
        if math.isnan(self.own.error):
            return (
                f"The solve with the model's own solver, {self.own.solver}, "
                "fails. See `solution_report` for why."
            )
        if self.depends_on_solver:
            return (
                "The outputs depend on the solver: with the model's own "
                f"solver, {self.own.solver}, they are off by "
                f"{percent(self.own.error)}, more than "
                f"{percent(self.threshold)}. The model is a map of these "
                "steps, not an ODE. Use it with no other solver, or train it "
                "with smaller steps or a smaller `rtol`."
            )
        return (
            f"The model's own solver, {self.own.solver}, is off by "
            f"{percent(self.own.error)}: the outputs are those of the ODE."
        )

    def __str__(self):
        rows = [
            [
                row.solver + " (own)" * (row is self.own),
                "-" if row.rtol is None else f"{row.rtol:g}",
                f"{row.nfe:g}",
                number(row.error),
                number(row.gradient_error),
            ]
            for row in (self.own, *self.rows)
        ]
        header = ["solver", "rtol", "NFE", "error", "gradient error"]
        title = f"Relative to {self.reference}"
        return "\n".join(
            [title, table(header, rows), "", paragraph(self.verdict)]
        )


def work_precision(
    layer,
    x,
    solvers=("bosh3", "dopri5", "tsit5", "dopri8"),
    rtols=(1e-2, 1e-3, 1e-4, 1e-5, 1e-6),
    loss=None,
    reference=None,
    threshold=0.01,
):
    """Measures the error of outputs and gradients against NFE, by solver.

    A model that was trained with coarse steps may have learned a map for just
    these steps: with others, or exact ones, its outputs differ. It is then a
    discrete map, not an ODE. This warns of it if the outputs with the model's
    own solver are off.

    Args:
        layer: Keras layer or model, as in `check_gradients`. Its adjoints are
            used as they are, except for the reference, whose gradient is exact.
        x: Its input, as in `check_gradients`.
        solvers: List of solver identifiers, see `keras_node.solvers.get`.
            Each adaptive one is used at each of `rtols`, with `atol` scaled
            in proportion; others, such as `Euler(step_size=0.1)`, as they are.
        rtols: List of positive floats. Errors below the resolution of the
            dtype, such as 1e-6 in float32, mean nothing.
        loss: As in `check_gradients`; part of a graph, which is traced once
            for each solver.
        reference: Solver identifier. Default `None`, `Dopri8` at `rtol=1e-6`
            in float32, and 1e-10 in float64.
        threshold: Positive float, the relative error of the outputs with the
            model's own solver above which to warn. Default 0.01.

    Returns:
        `WorkPrecisionReport`.

    Raises:
        TypeError: If `layer` is not a Keras layer.
        ValueError: If nothing in it solves an ODE, an adjoint cannot
            differentiate a solver, or a tolerance is not positive.
        tf.errors.InvalidArgumentError: If the reference fails, or a solver
            that is used as it is and has `on_failure="raise"`.

    Example:
    >>> layer = keras_node.ODELayer(keras.layers.Dense(2, "tanh"))
    >>> report = keras_node.diagnostics.work_precision(
    ...     layer, np.ones((4, 2), "float32"), ["tsit5"], [1e-2, 1e-4]
    ... )
    >>> [row.rtol for row in report.rows]
    [0.01, 0.0001]

    Reference:
    - [Ott et al., 2021](https://arxiv.org/abs/2007.15386)
    """
    _check_arguments(rtols, threshold)
    x = evaluation.as_tensors(x)
    loss = loss or evaluation.default_loss(seed=0)
    with evaluation.preserving_state(layer):
        own = _measure(layer, x, loss)
        exact_solver = _reference(reference, own.dtype)
        with solving_layers.using(
            layer, solver=exact_solver, adjoint=adjoints.AutoAdjoint()
        ):
            exact = _measure(layer, x, loss)
        measurements = _measure_all(layer, x, loss, solvers, rtols)
    report = WorkPrecisionReport(
        rows=[_row(measured, exact) for measured in measurements],
        own=_row(own, exact),
        reference=solver_measurement.describe(exact_solver),
        threshold=threshold,
    )
    if report.depends_on_solver:
        warnings.warn(report.verdict, UserWarning, stacklevel=2)
    return report


def _check_arguments(rtols, threshold):
    if not all(rtol > 0 for rtol in rtols):
        raise ValueError(
            f"`rtols` must be positive floats. Received: rtols={rtols}"
        )
    if not threshold > 0:
        raise ValueError(
            "`threshold` must be a positive float. "
            f"Received: threshold={threshold}"
        )


def _reference(reference, dtype):
    if reference is not None:
        return get(reference)
    rtol, atol = _TOLERANCES[dtype]
    return Dopri8(rtol=rtol, atol=atol)


def _measure(layer, x, loss):
    with solver_measurement.measuring(layer, x, loss) as measure:
        return measure()


def _measure_all(layer, x, loss, identifiers, rtols):
    """Returns a `Measurement` of each solver at each tolerance."""
    measurements = []
    for identifier in identifiers:
        variants = solver_measurement.solver_variants(get(identifier), rtols)
        for solver, tolerances in variants:
            with (
                solving_layers.using(layer, solver=solver),
                solver_measurement.measuring(layer, x, loss) as measure,
            ):
                for rtol in tolerances:
                    solver_measurement.set_tolerance(solver, rtol)
                    measurements.append(measure())
    return measurements


def _row(measured, exact):
    error = evaluation.relative_difference(measured.outputs, exact.outputs)
    return WorkPrecision(
        solver=measured.solver,
        rtol=measured.rtol,
        nfe=measured.nfe,
        error=error,
        # Outputs that are NaN have no gradient.
        gradient_error=error
        if math.isnan(error)
        else evaluation.relative_difference(measured.gradient, exact.gradient),
    )
