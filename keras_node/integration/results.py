"""The results of `odeint`."""

import typing

import tensorflow as tf
import tensorflow_probability as tfp

from keras_node.common.state import as_float64
from keras_node.solvers.dense_solution import DenseSolution


class Results(
    typing.NamedTuple(
        "Results",
        [
            ("times", tf.Tensor),
            ("states", typing.Any),
            ("diagnostics", typing.Any),
            ("solver_internal_state", typing.Any),
            ("dense", DenseSolution | None),
            ("event_times", tf.Tensor | None),
            ("event_indices", tf.Tensor | None),
        ],
    ),
    tfp.math.ode.Results,
):
    """The results of a solve: those of `tfp.math.ode.Results`, and more.

    Attributes:
        times: Float64 `(T,)`, or `(T, batch)` with clocks.
        states: Nested structure of `(T, ...)`, the states at the times.
        diagnostics: `keras_node.solvers.Diagnostics`.
        solver_internal_state: Where the solve stopped.
        dense: The polynomials of `dense=True`; `None` without.
        event_times: Float64 `(batch,)`, the time of the terminal event that
            ended the solve of each sample, NaN where none did; with any event
            that has `max_events` `(rows, batch)`, as many rows as there may be
            events in all, in the order of time. `None` without events.
        event_indices: Integers of the same shape, which of the events it was;
            -1 where there was none.
    """

    __slots__ = ()

    def interpolate(self, t):
        """Returns the states at any times inside, without solving again.

        Each is the value of a step's polynomial, of the order of the method's
        dense output; differentiable in `t` and in all that the solve is.

        Args:
            t: Floats `(T,)`, the same for all samples; or `(batch, T)`.

        Returns:
            Time-major as `states`, `(T, ...)`. NaN outside the solve, and
            behind a failure or a terminal event.

        Raises:
            ValueError: If the solve was without `dense=True`, or `t` is of
                another shape.
        """
        if self.dense is None:
            raise ValueError(
                "`interpolate` needs a solve with `odeint(..., dense=True)`. "
                "Received: results of dense=False"
            )
        t = as_float64(t)
        if t.shape.rank not in (1, 2):
            raise ValueError(
                "`t` must have the shape (T,) or (batch, T). "
                f"Received: t of shape {t.shape}"
            )
        leaves = self.dense.at(t if t.shape.rank == 1 else tf.transpose(t))
        likes = tf.nest.flatten(self.states)
        leaves = [
            tf.cast(a, b.dtype) for a, b in zip(leaves, likes, strict=True)
        ]
        return tf.nest.pack_sequence_as(self.states, leaves)
