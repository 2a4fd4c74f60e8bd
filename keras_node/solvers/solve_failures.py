"""Errors and assertions for failed solves."""

import tensorflow as tf

from keras_node.common import tf_internals
from keras_node.solvers import statuses


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
    failed = status < statuses.SUCCESS
    if tf.executing_eagerly():
        if tf.reduce_any(failed):
            worst, time = _worst(status, failed, result.internal.t)
            text = message(solver, int(worst))
            _raise(f"{text} {int(worst)} {float(time)}")
        return result.states

    def fail():
        worst, time = _worst(status, failed, result.internal.t)
        # One for each code, with constant text: an outer function may be
        # compiled after this one is traced, and XLA has no string operations.
        # `tf.debugging.Assert` would add a branch to each.
        assertions = [
            tf.raw_ops.Assert(
                condition=tf.not_equal(worst, code),
                data=[message(solver, code), worst, time],
            )
            for code in statuses.FAILURES
        ]
        with tf.control_dependencies(assertions):
            return tf.constant(True)

    assertion = tf.cond(tf.reduce_any(failed), fail, lambda: True)
    with tf.control_dependencies([assertion]):
        return [tf.identity(leaf) for leaf in result.states]


def require(condition, text, value):
    """Raises unless a condition holds, and returns it.

    Args:
        condition: Boolean scalar.
        text: String, the message.
        value: Tensor, shown at the end of the message.

    Raises:
        InvalidArgumentError: If it does not hold.
    """
    if tf.executing_eagerly():
        if not condition:
            _raise(f"{text} {value.numpy()}")
        return condition

    def fail():
        assertion = tf.raw_ops.Assert(condition=False, data=[text, value])
        with tf.control_dependencies([assertion]):
            return tf.constant(False)

    return tf.cond(condition, lambda: True, fail)


def raises(solver):
    """Whether a failure is to be raised, and can be."""
    return getattr(solver, "on_failure", "raise") == "raise" and can_raise()


def can_raise():
    """Whether an assertion has an effect.

    XLA drops assertions, but would compile what they print.
    """
    return not tf_internals.in_xla()


def _worst(status, failed, times):
    """Returns the lowest status, and the time of the first failure."""
    times = tf.where(failed, times, tf.float64.max)
    return tf.reduce_min(status), tf.reduce_min(times)


def _message(solver, code):
    """Returns the message without the numbers at its end."""
    is_stiff = getattr(solver, "is_stiff", False)
    cause = statuses.FAILURES[code].cause.format(
        or_else="or shorten `times`"
        if is_stiff
        else 'or choose a solver for stiff dynamics ("bdf")'
    )
    return (
        f"The solve must reach the last of `times`, but {cause} "
        'With on_failure="nan" the failing states are NaN instead. Received: '
        "diagnostics.status, time of the first failure ="
    )


def _backward_message(solver, code):
    cause = statuses.FAILURES[code].backward_cause
    return (
        'The backward solve of adjoint="backsolve" must reach the first of '
        f"`times`, but {cause} The dynamics are unstable or "
        'stiff backwards in time. Use adjoint="checkpoint", which integrates '
        'nothing backwards. With on_failure="nan" the gradient is NaN '
        "instead. Received: status, time elapsed backwards ="
    )


def _raise(text):
    """Raises the error of a graph, without the words of its assertion."""
    raise tf.errors.InvalidArgumentError(None, None, text)
