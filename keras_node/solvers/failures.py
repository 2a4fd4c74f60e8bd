"""Failures of a solve: status codes, messages and errors."""

import typing

import tensorflow as tf

from keras_node.common import assertions

SUCCESS = 0
MAX_NUM_STEPS = -1
UNDERFLOW = -2
NON_FINITE = -3
GRAZING = -4
MAX_NUM_EVENTS = -5


class Failure(typing.NamedTuple):
    """A failure in words.

    Attributes:
        name: String, for a report.
        cause: Sentences, what happened and what to do.
        backward_cause: A sentence, what happened in a backward solve.
    """

    name: str
    cause: str
    backward_cause: str


MESSAGES = {
    MAX_NUM_STEPS: Failure(
        "reached `max_num_steps`",
        "`max_num_steps` was reached before the last time. Raise "
        "`max_num_steps`, loosen `rtol` and `atol`, {or_else}.",
        "it took `max_num_steps` steps.",
    ),
    UNDERFLOW: Failure(
        "step size below the resolution of time",
        "the step size fell below the resolution of time. Loosen `rtol` and "
        "`atol` (below about 1e-6 they need a float64 state), or bound the "
        "dynamics.",
        "its step size fell below the resolution of time.",
    ),
    NON_FINITE: Failure(
        "values not finite",
        "the state or its derivative is not finite. Bound the dynamics (tanh, "
        "smaller weights), or shorten `times`; with fixed steps, lower "
        "`step_size`.",
        "its state is not finite.",
    ),
    GRAZING: Failure(
        "an event grazes",
        "an event has no gradient: the solution touches the surface of its "
        "`condition` and does not cross it, or the condition jumps there. "
        "Choose a condition that crosses 0 continuously, with a nonzero rate.",
        "an event grazes.",
    ),
    MAX_NUM_EVENTS: Failure(
        "reached `max_events`",
        "an event needs more than `max_events` resets. Raise its "
        "`max_events`, shorten `times`, or end the solve with a terminal event "
        "where resets come ever faster.",
        "it needs more than `max_events` resets.",
    ),
}


def check(solver, result, is_backward=False):
    """Returns the states of a `Solution`; raises its failure if so set.

    Args:
        solver: `tfp.math.ode.Solver`.
        result: `Solution`.
        is_backward: Whether it is from the backward pass of backsolve.

    Raises:
        InvalidArgumentError: If a clock failed and the solver's `on_failure`
            is `"raise"`; names cause, time and remedy.
    """
    if not raises(solver):
        return result.states
    message = _backward_message if is_backward else _message
    status = result.diagnostics.status
    failed = status < SUCCESS
    if tf.executing_eagerly():
        if tf.reduce_any(failed):
            worst, time = _worst(status, failed, result.internal.t)
            text = message(solver, int(worst))
            assertions.raise_error(f"{text} {int(worst)} {float(time)}")
        return result.states

    def fail():
        worst, time = _worst(status, failed, result.internal.t)
        # One for each code, with constant text: an outer function may be
        # compiled after this one is traced, and XLA has no string operations.
        # `tf.debugging.Assert` would add a branch to each.
        checks = [
            tf.raw_ops.Assert(
                condition=tf.not_equal(worst, code),
                data=[message(solver, code), worst, time],
            )
            for code in MESSAGES
        ]
        with tf.control_dependencies(checks):
            return tf.constant(True)

    assertion = tf.cond(tf.reduce_any(failed), fail, lambda: True)
    with tf.control_dependencies([assertion]):
        return [tf.identity(leaf) for leaf in result.states]


def raises(solver):
    """Whether a failure is to be raised, and can be."""
    return (
        getattr(solver, "on_failure", "raise") == "raise"
        and assertions.can_raise()
    )


def _worst(status, failed, times):
    """Returns the lowest status, and the time of the first failure."""
    times = tf.where(failed, times, tf.float64.max)
    return tf.reduce_min(status), tf.reduce_min(times)


def _message(solver, code):
    """Returns the message without the numbers at its end."""
    is_stiff = getattr(solver, "is_stiff", False)
    cause = MESSAGES[code].cause.format(
        or_else="or shorten `times`"
        if is_stiff
        else 'or choose a solver for stiff dynamics ("rodas5p")'
    )
    return (
        f"The solve must reach the last of `times`, but {cause} "
        'With on_failure="nan" the failing states are NaN instead. Received: '
        "diagnostics.status, time of the first failure ="
    )


def _backward_message(solver, code):
    cause = MESSAGES[code].backward_cause
    return (
        'The backward solve of adjoint="backsolve" must reach the first of '
        f"`times`, but {cause} The dynamics are unstable or "
        'stiff backwards in time. Use adjoint="checkpoint", which integrates '
        'nothing backwards. With on_failure="nan" the gradient is NaN '
        "instead. Received: status, time elapsed backwards ="
    )
