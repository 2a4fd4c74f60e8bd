"""The result of a solve: status, counts, and states."""

import typing

import tensorflow as tf
import tensorflow_probability as tfp

from keras_node.solvers import clocks


class Diagnostics(
    typing.NamedTuple(
        "Diagnostics",
        [
            ("num_ode_fn_evaluations", tf.Tensor),
            ("num_accepted_steps", tf.Tensor),
            ("num_rejected_steps", tf.Tensor),
            ("status", tf.Tensor),
        ],
    ),
    tfp.math.ode.Diagnostics,
):
    """Counts and status of a solve, `()` or `(batch,)` with per-sample steps.

    Attributes:
        num_ode_fn_evaluations: How often the dynamics were evaluated (NFE).
        num_accepted_steps: Steps that make up the solution; -1 from tfp's
            solvers, which do not count them.
        num_rejected_steps: Steps tried again with a smaller size; -1 as above.
        status: 0 success; -1 `max_num_steps` reached; -2 the step size fell
            below the resolution of time; -3 non-finite values; -4 an event
            grazes; -5 more resets than `max_events`.
    """

    __slots__ = ()

    @property
    def num_jacobian_evaluations(self):
        """Explicit methods evaluate no Jacobian: 0."""
        return tf.zeros_like(self.num_ode_fn_evaluations)

    @property
    def num_matrix_factorizations(self):
        """Explicit methods factorize no matrix: 0."""
        return tf.zeros_like(self.num_ode_fn_evaluations)


class InternalState(typing.NamedTuple):
    """Where a solve stopped, to continue from there.

    Attributes:
        t: Float64 per clock, the time reached.
        step_size: Positive float64 per clock, the step size to try next.
    """

    t: tf.Tensor
    step_size: tf.Tensor


class Solution(typing.NamedTuple):
    """A solve of flat state.

    Attributes:
        states: List of leaves with a leading axis for the requested times.
        diagnostics: `Diagnostics`.
        internal: `InternalState`.
        steps: The accepted steps, differentiable in the times; `None` when no
            record was asked for.
        record: What the recorder kept, or `None`.
        dense: `DenseSolution`, or `None`.
        events: `EventRecord`, its times differentiable; or `None`.
    """

    states: list
    diagnostics: Diagnostics
    internal: InternalState
    steps: typing.Any = None
    record: typing.Any = None
    dense: typing.Any = None
    events: typing.Any = None


def nan_unless(succeeded, leaves):
    """Returns the state, with NaN in the clocks that did not succeed.

    If nothing failed, no operation gives NaN: `enable_check_numerics` looks at
    every one, and an exported graph may multiply by its masks.
    """
    zeros = [tf.zeros_like(leaf) for leaf in leaves]
    # 0 for a success, NaN for a failure.
    marks = tf.sqrt(2.0 * tf.cast(succeeded, tf.float32) - 1.0) - 1.0
    return [
        leaf + clocks.align(marks, leaf)
        for leaf in clocks.select(succeeded, leaves, zeros)
    ]
