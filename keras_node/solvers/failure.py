"""How a solve that failed says so."""

import tensorflow as tf

from keras_node.solvers import compilation, solution

# In the order of the status codes: 0, -1, -2, -3.
_CAUSES = [
    "the solve succeeded.",
    "`max_num_steps` was reached before the last time. Raise `max_num_steps`, "
    "loosen `rtol` and `atol`, or choose a solver for stiff dynamics "
    '("bdf").',
    "the step size fell below the resolution of time. Loosen `rtol` and "
    "`atol` (below about 1e-6 they need a float64 state), or bound the "
    "dynamics.",
    "the state or its derivative is not finite. Bound the dynamics (tanh, "
    "smaller weights), or shorten `times`; with fixed steps, lower "
    "`step_size`.",
]


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
    # Without samples there is no least one.
    worst = tf.minimum(tf.reduce_min(status), solution.SUCCESS)
    time = tf.where(failed, result.internal.t, tf.float64.max)
    message = [
        "The solve must reach the last of `times`, but",
        tf.gather(_CAUSES, -worst),
        'With on_failure="nan" the failing states are NaN instead. Received: '
        "diagnostics.status, time of the first failure =",
        worst,
        tf.reduce_min(time),
    ]
    if tf.executing_eagerly():
        if tf.reduce_any(failed):
            _raise(message)
        return result.states
    assertion = tf.debugging.Assert(~tf.reduce_any(failed), message)
    with tf.control_dependencies([assertion]):
        return [tf.identity(leaf) for leaf in result.states]


def _raise(message):
    """Raises what a graph would, without the assertion's own words."""
    parts = [tf.convert_to_tensor(part).numpy() for part in message]
    text = " ".join(
        part.decode() if isinstance(part, bytes) else str(part)
        for part in parts
    )
    raise tf.errors.InvalidArgumentError(None, None, text)
