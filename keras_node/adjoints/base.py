"""Base class of adjoints, with the problems and gradients that they pass."""

import functools
import typing

import tensorflow as tf

from keras_node.dynamics.field_gradient import (
    ReevaluatedGradient,
    gradient_of,
)
from keras_node.dynamics.traced_events import TracedEvents
from keras_node.dynamics.traced_field import TracedField
from keras_node.saving.identifiers import Configurable
from keras_node.solvers import clocks, dense_output
from keras_node.solvers.pieces import Pieces


class Problem(typing.NamedTuple):
    """An initial value problem, with everything its gradient flows to.

    Attributes:
        solver: `tfp.math.ode.Solver`.
        field: `TracedField`, the dynamics of leaves, to whose sources the
            gradient flows; or `PythonField`.
        times: Float64 `(T,)`, or `(T, batch)` with a clock for each sample.
        y: List of leaves, the state at the first time.
        times_vary: Whether `times` or `jumps` come from a tensor, which may
            need a gradient.
        on_backward: Callable that gets the number of function evaluations of
            the backward pass, an integer tensor; or `None`.
        on_drift: The same for the drift of backsolve, a float; or `None`.
        jumps: Jumps of the dynamics, as `pieces.sorted_jumps` returns them;
            `None` for none.
        keeps_dense: Whether to keep the `DenseSolution`.
        events: `TracedEvents`, to whose sources the gradient flows, too; or
            `None`. With them there are jumps, and a clock for each sample.
        num_controlled: Number of leaves, from the first, that control the
            error; `None` for all. The others are integrals that feed back
            into nothing, such as those of a regularizer.
        is_whole_graph: Whether the solve has a graph to itself, in which its
            gradient finds what the forward pass recorded.
        raises: Whether a backward pass may raise; else a failure is NaN.
    """

    solver: typing.Any
    field: TracedField
    times: tf.Tensor
    y: list
    times_vary: bool
    on_backward: typing.Callable | None = None
    on_drift: typing.Callable | None = None
    jumps: tf.Tensor | None = None
    keeps_dense: bool = False
    events: TracedEvents | None = None
    num_controlled: int | None = None
    is_whole_graph: bool = False
    raises: bool = True

    def unreported(self):
        """Returns the problem without the reports of its backward pass."""
        return self._replace(on_backward=None, on_drift=None)

    def silent(self):
        """Returns the problem without side effects of its backward pass.

        TensorFlow then drops the pass from a graph that does not use it.
        """
        return self.unreported()._replace(raises=False)

    @property
    def has_rows_within(self):
        """Whether times between the first and the last are requested."""
        return dense_output.has_rows_within(self.times)

    @property
    def is_dense(self):
        """Whether steps need their dense output."""
        wants = self.has_rows_within or self.keeps_dense
        return wants and self.solver.is_adaptive

    @property
    def inputs(self):
        """The tensors to which the gradient flows."""
        return [
            *self.moments,
            *self.y,
            *self.field.sources,
            *self.event_sources,
        ]

    @property
    def event_sources(self):
        """The sources of the events."""
        return [] if self.events is None else self.events.sources

    @property
    def moments(self):
        """The tensors of time that a gradient may be asked for."""
        return [self.times] if self.jumps is None else [self.times, self.jumps]

    def with_moments(self, moments):
        """Returns the problem with other `moments`."""
        return self._replace(
            **dict(zip(["times", "jumps"], moments, strict=False))
        )

    def gradient_of(self, field):
        """Returns the gradient of a field, of which this problem's is made."""
        if self.solver.needs_jacobian:
            return ReevaluatedGradient(field, self.times_vary)
        return gradient_of(field, self.times_vary)

    def pieces(self, steps=None):
        """Returns the `Pieces` of the solve.

        Args:
            steps: The steps of its `Solution`, which know where events have
                happened; `None` (default) before it.
        """
        jumps = self.jumps
        if steps is not None:
            jumps = steps.with_events(jumps)
        return Pieces(self.times, jumps, self.y[0].dtype)

    def norm(self):
        """Returns the norm of the leaves that control the error."""
        return functools.partial(
            _norm_of_first, self.num_controlled, self.times.shape.rank - 1
        )


def _norm_of_first(count, clock_rank, leaves):
    return clocks.rms(leaves[:count], clock_rank)


class Gradients(typing.NamedTuple):
    """The result of a backward pass, one entry for each input of a solve.

    Attributes:
        y: List of cotangents of the initial state.
        moments: List of cotangents of the problem's `moments`, or `None`.
        sources: List of cotangents of the field's sources.
        event_sources: List of cotangents of the events' sources.
        num_evaluations: Integer, per clock or one for all, the backward NFE.
        drift: Float scalar, see `BacksolveAdjoint`; `None` for others.
    """

    y: list
    moments: list | None
    sources: list
    event_sources: list
    num_evaluations: tf.Tensor
    drift: tf.Tensor | None = None


class Adjoint(Configurable):
    """Base class of the ways to differentiate a solve."""

    def solve(self, problem):
        """Solves a `Problem`; returns a `Solution` that is differentiable."""
        raise NotImplementedError


def require_own_solver(solver, name):
    """Raises `ValueError` unless the solver can take its own steps again."""
    if not solver.can_replay:
        raise ValueError(
            f'adjoint="{name}" must take the steps of a solver again, which '
            "only the one-step solvers of keras_node allow. Use one of "
            'them, or adjoint="backsolve". '
            f"Received: solver={type(solver).__name__}"
        )
