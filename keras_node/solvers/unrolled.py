"""Fixed steps without a loop, where the times are known beforehand.

In a graph the clock is then made of constants, of which no operation is left
when it is exported. What runs is the dynamics and sums of their values.
"""

import numpy as np
import tensorflow as tf

from keras_node.solvers import step


def intervals(solver, times):
    """Returns the intervals of a solve with their steps, as numbers.

    Args:
        solver: `OneStepSolver` of fixed steps.
        times: Float64 `(T,)` or `(T, batch)`.

    Returns:
        List of `(start, dt, count)`; `None` if the times are known only when
        the graph runs, each sample has its own, or `max_num_steps` is too low.
    """
    known = tf.get_static_value(times)
    if known is None or times.shape.rank > 1:
        return None
    with tf.init_scope():  # Numbers, even while a graph is built.
        counts = solver.fixed_steps(tf.constant(known)).counts
    counts = tf.get_static_value(counts)
    if counts is None or np.sum(counts, dtype=float) > solver.max_num_steps:
        return None
    sizes = np.diff(known) / np.maximum(counts, 1)
    return list(zip(known, sizes, counts, strict=False))


def states(solver, ode_fn, times, intervals, y):
    """Takes the steps of all intervals; returns the states between them.

    Args:
        solver: `OneStepSolver` of fixed steps.
        ode_fn: Callable `(t, leaves) -> leaves`.
        times: Float64 `(T,)`.
        intervals: As the function of this name returns them.
        y: List of leaves.

    Returns:
        Leaves with a leading axis for the times.
    """
    known = tf.get_static_value(times)
    interval = step.Interval(np.min(known), np.max(known))
    evaluator = step.Evaluator(ode_fn)
    f = []
    if solver.tableau.fsal:
        f = evaluator(tf.constant(known[0], y[0].dtype), y)
    rows = [y]
    for start, dt, count in intervals:
        for n in range(count):
            t = tf.constant(start + n * dt)
            y, f, _ = solver.step(evaluator, interval, t, tf.constant(dt), y, f)
        rows.append(y)
    return [tf.stack(leaves) for leaves in zip(*rows, strict=True)]
