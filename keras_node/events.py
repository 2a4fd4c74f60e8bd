"""Between events of any batch shape and the one batch axis of dynamics."""

import tensorflow as tf

from keras_node.solvers.arguments import is_positive_integer


def check_event_ndims(event_ndims):
    """Raises `ValueError` unless events can have so many axes."""
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
    if not x.dtype.is_floating:
        raise TypeError(
            "A flow needs float events; write 1.0 instead of 1, or cast them. "
            f"Received: events of dtype {x.dtype.name}"
        )
    if x.shape.rank is None or x.shape.rank < event_ndims:
        raise ValueError(
            f"`event_ndims={event_ndims}` needs a tensor of at least as many "
            f"axes, the batch's before them. Received: shape {x.shape}"
        )


def flatten_batch(x, event_ndims):
    """Reshapes `(..., event)` to `(batch, event)`."""
    rank = x.shape.rank - event_ndims
    flat = tf.reshape(x, tf.concat([[-1], tf.shape(x)[rank:]], axis=0))
    size = x.shape[:rank].num_elements()
    return tf.ensure_shape(flat, [size, *x.shape[rank:]])


def flatten_condition(condition, batch):
    """Broadcasts `(..., features)` to a batch shape, and flattens that."""
    condition = tf.convert_to_tensor(condition)
    if condition.shape.rank is None or not (
        1 <= condition.shape.rank <= batch.shape[0] + 1
    ):
        raise ValueError(
            "A `condition` must have the axes of the batch, or fewer, and then "
            f"one of features. Received: condition of shape {condition.shape}, "
            f"a batch of {batch.shape[0]} axes"
        )
    features = tf.shape(condition)[-1:]
    shape = tf.concat([batch, features], axis=0)
    flat = tf.reshape(
        tf.broadcast_to(condition, shape), tf.concat([[-1], features], axis=0)
    )
    return tf.ensure_shape(flat, [None, condition.shape[-1]])
