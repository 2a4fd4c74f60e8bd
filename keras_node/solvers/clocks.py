"""Lanes: what shares a clock.

A solve has either one lane, the whole batch with one clock, and its times,
step sizes, errors and counts have shape `()`; or, with per-sample steps, one
lane for each sample, and they have shape `(batch,)`. The state is a list of
tensors, its leaves. These few functions are the only place where the two
meet; everything else is written once for both.
"""

import tensorflow as tf


def align(values, leaf):
    """Casts lane values to the leaf's dtype and shapes them to broadcast."""
    return _align(tf.cast(values, leaf.dtype), leaf)


def _align(values, leaf):
    rank = values.shape.rank
    if rank in (0, leaf.shape.rank):
        return values
    ones = [1] * (leaf.shape.rank - rank)
    return tf.reshape(values, tf.concat([tf.shape(values), ones], axis=0))


def scale(values, leaves):
    """Multiplies each lane of the state by its value."""
    return [align(values, leaf) * leaf for leaf in leaves]


def select(mask, x, y):
    """Takes each lane from `x` where `mask` holds, else from `y`."""
    return [tf.where(_align(mask, a), a, b) for a, b in zip(x, y, strict=True)]


def rms(leaves, lane_rank):
    """Root mean square over all elements of a lane, in float64.

    Hairer, Nørsett & Wanner's norm (II.4.11), taken over every leaf at once.
    The squares are float64, too: that of 2e19 overflows float32.
    """
    total = 0.0
    count = 0
    for leaf in leaves:
        axes = list(range(lane_rank, leaf.shape.rank))
        squares = tf.square(tf.cast(leaf, tf.float64))
        total += tf.reduce_sum(squares, axis=axes)
        size = tf.reduce_prod(tf.shape(leaf)[lane_rank:])
        count += tf.cast(size, tf.float64)
    # An empty batch has no error.
    return tf.sqrt(tf.math.divide_no_nan(total, count))


def max_rms(leaves):
    """The largest `rms` of any sample: none is diluted by its batch."""
    return largest(rms(leaves, 1))


def largest(values):
    """Returns the largest of nonnegative lanes, or 0 where there are none."""
    # Not the maximum of both: XLA's of NaN alone is minus infinity.
    return tf.where(tf.size(values) > 0, tf.reduce_max(values), 0.0)


def are_finite(leaves, lane_rank):
    """Returns whether all elements of a lane are finite."""
    finite = True
    for leaf in leaves:
        axes = list(range(lane_rank, leaf.shape.rank))
        finite &= tf.reduce_all(tf.math.is_finite(leaf), axis=axes)
    return finite
