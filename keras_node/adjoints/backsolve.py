"""The continuous adjoint, integrated backwards together with the state."""

import keras
import tensorflow as tf

from keras_node import solvers
from keras_node.adjoints.backsolve_reversal import ReverseSolve
from keras_node.adjoints.base import Adjoint
from keras_node.adjoints.custom_gradient import custom_gradient_solve
from keras_node.common import assertions
from keras_node.common.arguments import is_positive
from keras_node.solvers import failures, solution


@keras.saving.register_keras_serializable(package="keras_node")
class BacksolveAdjoint(Adjoint):
    """The paper's adjoint: O(1) memory, gradients of the continuous problem.

    Integrates, from the last time to the first,

        dy/dt = f(t, y),   da/dt = -a^T df/dy,   dg/dt = -a^T df/dtheta

    with `a` jumping by the loss's gradient at each requested time, where the
    state restarts from the stored output. The error is controlled on `y` and
    `a` alone, sample by sample: `g` is an integral that feeds back into
    neither. The step size is carried over from one interval to the next.

    Samples with their own clocks share the steps of the backward pass, in
    equal fractions of their intervals and each within its own tolerance.

    Where the dynamics contract, the state integrated backwards drifts away
    from the one that was integrated forwards, and the gradient with it:
    prefer `CheckpointAdjoint` unless memory for its states is short. At each
    requested time the two are compared: the drift is their distance over the
    error that `rtol` and `atol` of the backward solver allow in a step, as a
    root mean square over the state. Layers report the largest drift as a
    metric, `<layer name>_drift`.

    Args:
        solver: Solver of the backward pass, an identifier (see
            `keras_node.solvers.get`), or `None` (default) for the forward
            solver.
        max_drift: Positive float, the largest drift for which a gradient is
            returned; above it the solver's `on_failure` decides between an
            error and NaN. Default 1e3; `None` for no bound.

    Raises:
        ValueError: If `max_drift` is not positive.
        tf.errors.InvalidArgumentError: In the backward pass, if it ends early
            or drifts too far, and the solver has `on_failure="raise"`.

    Reference:
    - [Chen et al., 2018, Algorithm 2](https://arxiv.org/abs/1806.07366)
    - [Kidger et al., 2021](https://arxiv.org/abs/2009.09457) (seminorm)
    """

    citations = ("chen2018", "kidger2021")

    def __init__(self, solver=None, max_drift=1e3):
        self.solver = None if solver is None else solvers.get(solver)
        if max_drift is not None and not is_positive(max_drift):
            raise ValueError(
                "`max_drift` must be a positive float, in units of the "
                "tolerances, or `None` for no bound. "
                f"Received: max_drift={max_drift!r}"
            )
        self.max_drift = max_drift

    def get_config(self):
        """Returns the arguments that make an equal adjoint."""
        solver = self.solver
        return {
            "solver": None if solver is None else solvers.serialize(solver),
            "max_drift": self.max_drift,
        }

    def solve(self, problem):
        """Solves a `Problem`; returns a `Solution` that is differentiable."""

        solver = self.solver or problem.solver
        _refuse_jacobians(solver)

        def make_recorder():
            return None  # The backward pass needs the states alone.

        def backward(problem, result, cotangents):
            gradients = ReverseSolve(problem, solver, result, cotangents).run()
            return self._checked(problem, gradients)

        return custom_gradient_solve(
            problem, make_recorder, backward, "backsolve"
        )

    def _checked(self, problem, gradients):
        """Returns gradients; an error or NaN if they have drifted too far."""
        if self.max_drift is None:
            return gradients
        groups = [gradients.y, gradients.sources, gradients.moments or []]
        tensors = self._bounded(
            problem, gradients.drift, tf.nest.flatten(groups)
        )
        y, sources, moments = tf.nest.pack_sequence_as(groups, tensors)
        return gradients._replace(y=y, sources=sources, moments=moments or None)

    def _bounded(self, problem, drift, tensors):
        """Returns tensors that wait for an assertion, or are NaN."""
        is_near = drift <= self.max_drift
        if problem.raises and failures.raises(problem.solver):
            is_near = assertions.require(is_near, _DRIFTED, drift)
        return solution.nan_unless(is_near, tensors)


def _refuse_jacobians(solver):
    if solver.needs_jacobian:
        raise ValueError(
            "The backward solve of `BacksolveAdjoint` integrates the gradient "
            "to all weights, of which no Jacobian is taken. Use the adjoint "
            '"checkpoint", or `BacksolveAdjoint(solver="bdf")`. '
            f"Received: solver={type(solver).__name__}"
        )


_DRIFTED = (
    'The backward solve of adjoint="backsolve" must retrace the states of '
    "the forward solve, but has drifted away from them: the dynamics "
    'contract, and the gradient is wrong. Use adjoint="checkpoint", request '
    "more times, lower `rtol`, or raise `BacksolveAdjoint(max_drift=...)`. "
    'With on_failure="nan" the gradient is NaN instead. Received: drift, in '
    "units of the tolerances ="
)
