"""How a solve that failed says so."""

import tensorflow as tf
import tensorflow_probability as tfp

from keras_node.solvers import compilation, solution

_STIFF = (
    "Raise `max_num_steps`, loosen `rtol` and `atol`, or choose a solver for "
    'stiff dynamics ("bdf").'
)
# What is left where the solver is that one.
_STIFF_ALREADY = (
    "Raise `max_num_steps`, loosen `rtol` and `atol`, or shorten `times`."
)
_CAUSES = {
    solution.MAX_NUM_STEPS: "`max_num_steps` was reached before the last time.",
    solution.UNDERFLOW: "the step size fell below the resolution of time. "
    "Loosen `rtol` and `atol` (below about 1e-6 they need a float64 state), "
    "or bound the dynamics.",
    solution.NON_FINITE: "the state or its derivative is not finite. Bound "
    "the dynamics (tanh, smaller weights), or shorten `times`; with fixed "
    "steps, lower `step_size`.",
}


def check(solver, result):
    """Returns the states of a `Solution`, raising if the solver wants that.

    Raises:
        InvalidArgumentError: If a lane failed, naming cause, time and remedy.
    """
    # XLA drops assertions, but would compile what they print.
    wants_error = getattr(solver, "on_failure", "raise") == "raise"
    if not wants_error or compilation.in_xla():
        return result.states
    status = result.diagnostics.status
    failed = status < solution.SUCCESS
    if tf.executing_eagerly():
        if tf.reduce_any(failed):
            _raise(solver, *_worst(status, failed, result.internal.t))
        return result.states
    assertion = tf.cond(
        tf.reduce_any(failed),
        lambda: _assert(solver, *_worst(status, failed, result.internal.t)),
        lambda: True,
    )
    with tf.control_dependencies([assertion]):
        return [tf.identity(leaf) for leaf in result.states]


def _worst(status, failed, times):
    """Returns the least status, and the time of the first failure."""
    times = tf.where(failed, times, tf.float64.max)
    return tf.reduce_min(status), tf.reduce_min(times)


def _message(solver, code):
    """Returns all of the message but the numbers that end it."""
    cause = _CAUSES[code]
    if code == solution.MAX_NUM_STEPS:
        is_for_stiff = isinstance(solver, tfp.math.ode.BDF)
        cause += " " + (_STIFF_ALREADY if is_for_stiff else _STIFF)
    return (
        f"The solve must reach the last of `times`, but {cause} "
        'With on_failure="nan" the failing states are NaN instead. Received: '
        "diagnostics.status, time of the first failure ="
    )


def _raise(solver, worst, time):
    """Raises what a graph would, without the assertion's own words."""
    code = int(worst)
    text = f"{_message(solver, code)} {code} {float(time)}"
    raise tf.errors.InvalidArgumentError(None, None, text)


def _assert(solver, worst, time):
    """Asserts that the status is none of those that mean failure."""
    # One for each, of constant text: a function outside may be compiled after
    # this one was traced, and XLA has no operations on strings.
    assertions = [
        tf.debugging.Assert(
            tf.not_equal(worst, code), [_message(solver, code), worst, time]
        )
        for code in _CAUSES
    ]
    with tf.control_dependencies(assertions):
        return tf.constant(True)
