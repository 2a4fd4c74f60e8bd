"""Arrays of tensors that a solve writes step by step."""

import tensorflow as tf


def array_of(like, size):
    """Returns a `TensorArray` of tensors like one, whose slots stay.

    Args:
        like: Tensor or `TensorSpec`.
        size: Integer, the number of slots.
    """
    return tf.TensorArray(
        like.dtype,
        size=size,
        element_shape=like.shape,
        clear_after_read=False,
    )
