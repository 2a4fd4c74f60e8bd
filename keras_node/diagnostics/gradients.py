"""The gradients of the adjoints, compared, and the drift of backsolve."""

import dataclasses
import math
import typing

import numpy as np
import tensorflow as tf

from keras_node import adjoints
from keras_node.common import solving_layers
from keras_node.diagnostics import evaluation, metered_adjoints
from keras_node.diagnostics.metered_adjoints import Drift
from keras_node.diagnostics.table import number, paragraph, percent, table

# How many tolerances of a step a gradient may be off by: errors add up.
_FACTOR = 10.0
# The tolerance to assume for a solver without one.
_DEFAULT_RTOL = 1e-3
_ADJOINTS = {
    "direct": adjoints.DirectAdjoint,
    "checkpoint": adjoints.CheckpointAdjoint,
    "backsolve": adjoints.BacksolveAdjoint,
}


class Difference(typing.NamedTuple):
    """How far the gradient of an adjoint is from that of `"direct"`.

    Attributes:
        overall: Float, the 2-norm of the difference over that of the gradient
            of `"direct"`, all tensors together; NaN if the backward solve
            failed, `None` if there is nothing to compare with.
        worst: Float or `None`, the same for the tensor where it is largest.
        worst_name: String or `None`, the path of that weight or input.
    """

    overall: float | None
    worst: float | None
    worst_name: str | None


@dataclasses.dataclass(frozen=True)
class GradientReport:
    """The result of `check_gradients`; `print` shows it as tables.

    Attributes:
        differences: Dict from the names of possible adjoints to `Difference`.
        drifts: List of `Drift`, one for each layer that solves.
        threshold: Float, the most that `"backsolve"` may be off.
        rounding: Float, the most that `"checkpoint"` may be off.
        gradient: Dict from names of weights and inputs to arrays, the
            gradient of `"direct"`; empty if that is not possible.
    """

    differences: dict
    drifts: list
    threshold: float
    rounding: float
    gradient: dict = dataclasses.field(repr=False)

    @property
    def verdict(self):
        """A sentence or two about which adjoint to trust."""
        is_drifting = any(d.relative > self.threshold for d in self.drifts)
        if not self.gradient:
            return (
                'A solver of tfp only allows adjoint="backsolve": there is '
                "nothing to compare its gradient with. Its state "
                f"{'drifts' if is_drifting else 'does not drift'}."
            )
        checkpoint = self.differences["checkpoint"].overall
        backsolve = self.differences["backsolve"].overall
        if not checkpoint <= self.rounding:
            return (
                f'"checkpoint" and "direct" differ by {percent(checkpoint)}, '
                f"more than {percent(self.rounding)}: rounding is large. "
                "Solve in float64 to trust either."
            )
        if math.isnan(backsolve):
            return 'Backsolve drifts, until it fails. Trust "checkpoint".'
        if not backsolve <= self.threshold:
            return (
                f"Backsolve drifts: its gradient is off by {percent(backsolve)}"
                f", more than {percent(self.threshold)}. "
                'Trust "checkpoint".'
            )
        if is_drifting:
            return (
                "The gradients agree here, but the state of backsolve drifts. "
                'Trust "checkpoint".'
            )
        return "The gradients agree: any adjoint will do."

    def __str__(self):
        gradients = [
            [name, number(d.overall), number(d.worst), d.worst_name or "-"]
            for name, d in self.differences.items()
        ]
        drifts = [
            [drift.layer, number(drift.absolute), number(drift.relative)]
            for drift in self.drifts
        ]
        return "\n".join(
            [
                'Gradients, relative difference from those of "direct"',
                table(["adjoint", "overall", "worst", "in"], gradients, (0, 3)),
                "",
                "Drift of the state, solved forwards and back again",
                table(["layer", "absolute", "relative"], drifts),
                "",
                paragraph(self.verdict),
            ]
        )


def check_gradients(layer, x, loss=None, seed=0):
    """Compares the adjoints' gradients, and measures backsolve's drift.

    The gradient of each adjoint to the trainable weights and the float inputs
    is compared with that of `"direct"`, which is exact for the discrete
    solution but keeps all steps in memory: pass only a few samples. A layer
    that has a `CheckpointAdjoint` or `BacksolveAdjoint` uses it for that one.

    The drift is that of solving forwards, and back from there with the solver
    of the backward pass. The verdict is that backsolve drifts if its gradient
    is off by more than 10 times the `rtol` of that solver: errors of steps
    add up, but not that far. For a solver without `rtol`, 1e-3 is assumed.

    Args:
        layer: Keras layer or model that solves an ODE, such as `ODELayer`,
            a model with some in it, `CNFBijector`, `NormalizingFlow` or
            `LatentODE`. It is called as in inference.
        x: Its input, float arrays or a nested structure of them. That of a
            conditional `CNFBijector` is a dict of `"x"` and `"condition"`.
        loss: Callable `loss(layer, x)` of the layer and tensors, which
            returns a scalar. Default `None`: for a `NormalizingFlow` the mean
            negative log-density, for a `LatentODE` the mean negative bound,
            for others a random projection of the outputs; each without the
            penalties of regularizers.
        seed: Integer, for that projection and for the bound's samples.
            Default 0.

    Returns:
        `GradientReport`. With a solver of TensorFlow Probability, for which
        there is no `"direct"`, it has only the drift.

    Raises:
        TypeError: If `layer` is not a Keras layer.
        ValueError: If nothing in it solves an ODE, or the gradient is not
            finite, or is 0 to all weights and inputs.
        tf.errors.InvalidArgumentError: If the forward solve fails.

    Example:
    >>> layer = keras_node.ODELayer(keras.layers.Dense(2, "tanh"))
    >>> x = np.ones((4, 2), "float32")
    >>> report = keras_node.diagnostics.check_gradients(layer, x)
    >>> report.verdict
    'The gradients agree: any adjoint will do.'

    Reference:
    - [Gholami et al., 2019](https://arxiv.org/abs/1902.10298)
    """
    x = evaluation.as_tensors(x)
    loss = loss or evaluation.default_loss(seed)
    solving = solving_layers.differentiable_layers(layer)
    with evaluation.preserving_state(layer):
        drifts, dtype = _drifts(layer, x)
        reference, differences = {}, {"backsolve": Difference(None, None, None)}
        if all(part.solver.can_replay for part in solving):
            reference = _gradients("direct", layer, x, loss)
            _check_reference(reference)
            differences = {
                name: _difference(name, layer, x, loss, reference)
                for name in ("checkpoint", "backsolve")
            }
    rounding = float(np.sqrt(np.finfo(dtype).eps))
    rtol = max(_backward_rtol(part) for part in solving)
    return GradientReport(
        differences=differences,
        drifts=drifts,
        threshold=max(_FACTOR * rtol, rounding),
        rounding=rounding,
        gradient=reference,
    )


def _drifts(layer, x):
    """Returns the `Drift` of each layer that solves, and their dtype."""
    make = metered_adjoints.own_adjoint_or(adjoints.BacksolveAdjoint)
    with metered_adjoints.adjoint_of_each(
        layer, lambda part: metered_adjoints.DriftMeter(make(part))
    ) as drift_meters:
        evaluation.outputs(layer, x)
    parts = solving_layers.differentiable_layers(layer)
    drifts = [
        Drift(part.name, float(meter.absolute), float(meter.relative))
        for part, meter in zip(parts, drift_meters, strict=True)
    ]
    return drifts, metered_adjoints.dtype_of(drift_meters)


def _gradients(name, layer, x, loss):
    make = metered_adjoints.own_adjoint_or(_ADJOINTS[name])
    with metered_adjoints.adjoint_of_each(
        layer, lambda part: _unbounded(make(part))
    ):
        gradient = evaluation.gradients(layer, x, loss)
    return dict(
        zip(gradient, evaluation.arrays(gradient.values()), strict=True)
    )


def _unbounded(adjoint):
    """Returns an adjoint that gives a gradient however far it drifts."""
    if isinstance(adjoint, adjoints.BacksolveAdjoint):
        return adjoints.BacksolveAdjoint(adjoint.solver, max_drift=None)
    return adjoint


def _difference(name, layer, x, loss, reference):
    """Returns the `Difference` of an adjoint's gradient."""
    try:
        actual = _gradients(name, layer, x, loss)
    except tf.errors.InvalidArgumentError:
        # The forward solve is known to succeed, so the backward one failed.
        return Difference(math.nan, math.nan, None)
    expected = reference.values()
    # A gradient that is nothing but rounding is not reported as the worst.
    floor = np.sqrt(np.finfo(np.float32).eps) * evaluation.norm(expected)
    shares = {
        key: evaluation.distance([actual[key]], [value])
        / max(evaluation.norm([value]), floor)
        for key, value in reference.items()
    }
    worst_name = max(
        shares, key=lambda key: np.nan_to_num(shares[key], nan=np.inf)
    )
    overall = evaluation.relative_difference(actual.values(), expected)
    return Difference(overall, shares[worst_name], worst_name)


def _backward_rtol(layer):
    make = metered_adjoints.own_adjoint_or(adjoints.BacksolveAdjoint)
    adjoint = make(layer)
    solver = adjoint.solver or layer.solver
    return float(getattr(solver, "rtol", _DEFAULT_RTOL))


def _check_reference(gradient):
    size = evaluation.norm(gradient.values())
    if not math.isfinite(size):
        raise ValueError(
            'The gradient of "direct" must be finite. Does the forward solve '
            'fail, with on_failure="nan"? See `solution_report`. '
            f"Received: a gradient of norm {size}"
        )
    if size == 0.0:
        raise ValueError(
            "`loss` must depend on a trainable weight or a float input; "
            "compute it from tensors, not arrays. Received: a loss whose "
            f"gradient is 0 to all of {sorted(gradient)}"
        )
