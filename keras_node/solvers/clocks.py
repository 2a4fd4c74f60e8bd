"""Clocks: one for the whole batch, or one for each sample.

Times, step sizes, errors and counts are "per clock": of shape `()` in a solve
of one clock, `(batch,)` with per-sample steps. `clock_rank` is 0 or 1. The
state is a list of tensors, its leaves. Only these functions tell the two cases
apart; everything else is written once for both.
"""

import tensorflow as tf


def align(values, leaf):
    """Casts values per clock to a leaf's dtype, shaped to broadcast."""
    return _align(tf.cast(values, leaf.dtype), leaf)


def _align(values, leaf):
    rank = values.shape.rank
    if rank in (0, leaf.shape.rank):
        return values
    ones = [1] * (leaf.shape.rank - rank)
    return tf.reshape(values, tf.concat([tf.shape(values), ones], axis=0))


def scale(values, leaves):
    """Multiplies each clock of the state by its value."""
    return [align(values, leaf) * leaf for leaf in leaves]


def select(mask, x, y):
    """Takes each clock from `x` where `mask` holds, else from `y`."""
    return [tf.where(_align(mask, a), a, b) for a, b in zip(x, y, strict=True)]


def zero_unless(mask, x):
    """Takes each clock from `x` where `mask` holds, else 0."""
    return select(mask, x, [tf.zeros_like(leaf) for leaf in x])


def add(x, y):
    """Adds two states."""
    return [a + b for a, b in zip(x, y, strict=True)]


def rms(leaves, clock_rank):
    """Root mean square over all elements of a clock, in float64.

    Hairer, Nørsett & Wanner's norm (II.4.11), taken over every leaf at once.
    The squares are float64, too: that of 2e19 overflows float32.
    """
    total = 0.0
    count = 0
    for leaf in leaves:
        axes = list(range(clock_rank, leaf.shape.rank))
        squares = tf.square(tf.cast(leaf, tf.float64))
        total += tf.reduce_sum(squares, axis=axes)
        size = tf.reduce_prod(tf.shape(leaf)[clock_rank:])
        count += tf.cast(size, tf.float64)
    # An empty batch has no error.
    return tf.sqrt(tf.math.divide_no_nan(total, count))


def max_rms(leaves):
    """The largest `rms` of any sample, which the batch does not dilute."""
    return largest(rms(leaves, 1))


def largest(values):
    """Returns the largest of nonnegative values, or 0 where there are none."""
    # Not the maximum with 0: in XLA that of NaN alone is minus infinity.
    return tf.where(tf.size(values) > 0, tf.reduce_max(values), 0.0)


def are_finite(leaves, clock_rank):
    """Returns whether all elements of a clock are finite."""
    finite = True
    for leaf in leaves:
        axes = list(range(clock_rank, leaf.shape.rank))
        finite &= tf.reduce_all(tf.math.is_finite(leaf), axis=axes)
    return finite


def one_row(leaves):
    """Gives leaves an axis of time, to broadcast against rows of times."""
    return [leaf[None] for leaf in leaves]


def rows_of(rows, indices):
    """Returns `rows[index]` for each of the time-major `indices`, per clock."""
    if indices.shape.rank == 1:
        return tf.gather(rows, indices)
    # What `gather_nd` would do, if it did not refuse empty rows.
    shape = tf.shape(rows)
    flat = tf.reshape(rows, tf.concat([[shape[0] * shape[1]], shape[2:]], 0))
    clock = tf.range(shape[1])
    found = tf.gather(flat, indices * shape[1] + clock)
    return tf.ensure_shape(found, [*indices.shape, *rows.shape[2:]])


def set_rows(rows, indices, values):
    """Returns `rows` with `rows[index] = value` for each of the indices."""
    if indices.shape.rank == 1:
        indices = indices[:, None]
    else:
        indices = _clock_indices(indices)
    if not values.shape.num_elements():
        # TensorFlow refuses to scatter into a tensor that may be empty.
        count = tf.shape(values)[0] * tf.minimum(tf.size(values), 1)
        indices, values = indices[:count], values[:count]
    return tf.tensor_scatter_nd_update(rows, indices, values)


def _clock_indices(indices):
    clock = tf.broadcast_to(tf.range(tf.shape(indices)[1]), tf.shape(indices))
    return tf.stack([indices, clock], axis=-1)
