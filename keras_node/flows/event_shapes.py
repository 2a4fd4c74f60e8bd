"""Shapes of events: their checks, and batches flattened to one axis."""

import tensorflow as tf

from keras_node.common.arguments import is_positive_integer
from keras_node.common.conversion import as_tensor


def check_event_ndims(event_ndims):
    """Raises `ValueError` unless events can have that many axes."""
    if not is_positive_integer(event_ndims):
        raise ValueError(
            "`event_ndims` must be a positive integer, the number of axes of "
            f"an event. Received: event_ndims={event_ndims!r}"
        )


def check_event(x, event_ndims):
    """Raises unless `x` holds float events.

    Raises:
        TypeError: If it is not float.
        ValueError: If it has too few axes.
    """
    if x.dtype.is_complex:
        raise TypeError(
            "A flow needs float events. For complex numbers, take the density "
            "of their parts: concatenate the real and the imaginary one. "
            f"Received: events of dtype {x.dtype.name}"
        )
    if not x.dtype.is_floating:
        raise TypeError(
            "A flow needs float events; write 1.0 instead of 1, or cast them. "
            f"Received: events of dtype {x.dtype.name}"
        )
    if x.shape.rank is None or x.shape.rank < event_ndims:
        raise ValueError(
            f"`event_ndims={event_ndims}` needs a tensor of at least that many "
            f"axes, after those of the batch. Received: shape {x.shape}"
        )


def flatten_batch(x, event_ndims):
    """Reshapes `(..., event)` to `(batch, event)`."""
    rank = x.shape.rank - event_ndims
    flat = tf.reshape(x, tf.concat([[-1], tf.shape(x)[rank:]], axis=0))
    size = x.shape[:rank].num_elements()
    return tf.ensure_shape(flat, [size, *x.shape[rank:]])


def flatten_condition(condition, x, event_ndims):
    """Broadcasts `(..., features)` to the batch of `x`, and flattens it.

    Raises:
        TypeError: If the condition is not a tensor of numbers.
        ValueError: If it does not broadcast.
    """
    condition = as_tensor(condition, "condition")
    rank = x.shape.rank - event_ndims
    batch = x.shape[:rank]
    if not _broadcasts(condition.shape, batch):
        raise ValueError(
            "A `condition` must have the axes of the batch, or fewer that "
            "broadcast against them, followed by one of features. "
            f"Received: condition of shape {condition.shape}, a batch of shape "
            f"{batch}"
        )
    features = tf.shape(condition)[-1:]
    shape = tf.concat([tf.shape(x)[:rank], features], axis=0)
    flat = tf.reshape(
        tf.broadcast_to(condition, shape), tf.concat([[-1], features], axis=0)
    )
    return tf.ensure_shape(flat, [None, condition.shape[-1]])


def _broadcasts(shape, batch):
    if shape.rank is None or not 1 <= shape.rank <= batch.rank + 1:
        return False
    sizes = zip(reversed(shape[:-1]), reversed(batch), strict=False)
    return all(
        size == 1 or None in (size, expected) or size == expected
        for size, expected in sizes
    )
