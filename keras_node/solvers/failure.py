"""How a solve that failed says so."""

import tensorflow as tf

from keras_node.solvers import compilation, solution

_CAUSES = {
    solution.MAX_NUM_STEPS: (
        "`max_num_steps` was reached before the last time. Raise "
        "`max_num_steps`, loosen `rtol` and `atol`, or choose a solver for "
        'stiff dynamics ("bdf"). '
    ),
    solution.UNDERFLOW: (
        "the step size fell below the resolution of time. Loosen `rtol` and "
        "`atol` (below about 1e-6 they need a float64 state), or bound the "
        "dynamics. "
    ),
    solution.NON_FINITE: (
        "the state or its derivative is not finite. Bound the dynamics (tanh, "
        "smaller weights), or shorten `times`; with fixed steps, lower "
        "`step_size`. "
    ),
}


def check(solver, result):
    """Returns the states of a `Solution`, raising if the solver wants that.

    Raises:
        InvalidArgumentError: If a lane failed, naming cause, time and remedy.
    """
    if getattr(solver, "on_failure", "raise") != "raise":
        return result.states
    # XLA drops assertions, and with them the only use of what they print.
    if compilation.in_xla():
        return result.states
    status = result.diagnostics.status
    assertions = []
    for code, cause in _CAUSES.items():
        failed = tf.equal(status, code)
        time = tf.reduce_min(
            tf.where(failed, result.internal.t, tf.float64.max)
        )
        assertions.append(
            tf.debugging.Assert(
                ~tf.reduce_any(failed),
                [
                    "The solve must reach the last of `times`, but "
                    + cause
                    + 'With on_failure="nan" the failing states are NaN '
                    "instead. Received: time of failure, diagnostics.status =",
                    time,
                    code,
                ],
            )
        )
    if tf.executing_eagerly():
        return result.states
    with tf.control_dependencies(assertions):
        return [tf.identity(leaf) for leaf in result.states]
