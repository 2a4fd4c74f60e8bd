"""What a solve returns: status, counts, and states."""

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
        num_ode_fn_evaluations: How often the dynamics was evaluated (NFE).
        num_accepted_steps: Steps that made up the solution; -1 from a tfp
            solver, which does not keep it.
        num_rejected_steps: Steps tried again with a smaller size; -1 as above.
        status: 0 success; -1 `max_num_steps` reached; -2 the step size fell
            below the resolution of time; -3 non-finite values.
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
    """Where a solve stopped, to go on from there.

    Attributes:
        t: Float64 per clock, the time reached.
        step_size: Positive float64 per clock, what to try next.
    """

    t: tf.Tensor
    step_size: tf.Tensor


class Solution(typing.NamedTuple):
    """A solve of flat state.

    Attributes:
        states: List of leaves with a leading axis for the requested times.
        diagnostics: `Diagnostics`.
        internal: `InternalState`.
        steps: The accepted steps, with a way to differentiate them; `None`
            when no record was asked for.
        record: What the recorder kept, or `None`.
    """

    states: list
    diagnostics: Diagnostics
    internal: InternalState
    steps: typing.Any = None
    record: typing.Any = None


def nan_unless(succeeded, leaves):
    """Returns the state, with NaN in the clocks that did not succeed.

    Where nothing failed there is no NaN on the way: `enable_check_numerics`
    looks at every operation, and an exported graph may multiply by its masks.
    """
    zeros = [tf.zeros_like(leaf) for leaf in leaves]
    # 0 of a success, NaN of a failure.
    marks = tf.sqrt(2.0 * tf.cast(succeeded, tf.float32) - 1.0) - 1.0
    return [
        leaf + clocks.align(marks, leaf)
        for leaf in clocks.select(succeeded, leaves, zeros)
    ]
