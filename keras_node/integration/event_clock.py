"""Checks of events, the clocks that they need, and their results."""

import tensorflow as tf

from keras_node.events import have_rows
from keras_node.solvers import pieces


def with_clocks(events, times, jumps, leaves):
    """Returns times and jumps with a clock for each sample.

    Args:
        events: List of `Event`s, at least one.
        times: Float64 `(T,)` or `(T, batch)`.
        jumps: As `pieces.sorted_jumps` returns them, or `None`.
        leaves: List of float tensors, the state.

    Raises:
        ValueError: If a leaf has no batch axis, or is in half precision.
    """
    batches = [leaf.shape[:1] for leaf in leaves if leaf.shape.rank]
    is_batch = len(batches) == len(leaves)
    if not is_batch or not all(map(batches[0].is_compatible_with, batches)):
        raise ValueError(
            "`events` need a state whose leaves have the same batch axis: each "
            "sample has its own events. For one system, add an axis, "
            f"`y[tf.newaxis]`. Received: state of shapes "
            f"{[tuple(leaf.shape) for leaf in leaves]}"
        )
    if leaves[0].dtype.size < 4:
        raise ValueError(
            "`events` need a float32 or float64 state: half precision cannot "
            "tell their times apart. Received: state of dtype "
            f"{leaves[0].dtype.name}"
        )
    if times.shape.rank == 1:
        size = tf.shape(leaves[0])[0]
        times = tf.tile(times[:, None], [1, size])
        times.set_shape([None, leaves[0].shape[0]])
        if jumps is not None:
            jumps = tf.tile(jumps[:, None], [1, size])
    if jumps is None:
        jumps = pieces.sorted_jumps(tf.zeros([0], tf.float64), times)
    return times, jumps


def results_of(events, record):
    """Returns the times and indices of events, as `odeint` does.

    Without the axis for rows if the first event of any kind ends the solve.

    Args:
        events: List of `Event`s.
        record: `EventRecord`, or `None`.
    """
    if record is None:
        return None, None
    if have_rows(events):
        return record.times, record.indices
    return record.times[0], record.indices[0]
