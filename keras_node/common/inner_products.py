"""Inner products of states that are lists of leaves."""

import tensorflow as tf


def dot(x, y, clock_rank):
    """Returns the inner product of two states of each clock, in float64.

    Args:
        x, y: Lists of float tensors, the leaves.
        clock_rank: 0 or 1, the number of axes that are not summed over.
    """
    total = 0.0
    for a, b in zip(x, y, strict=True):
        axes = list(range(clock_rank, a.shape.rank))
        total += tf.reduce_sum(tf.cast(a * b, tf.float64), axis=axes)
    return total
