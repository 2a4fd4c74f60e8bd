"""Conversion between a user's state and times and those of the kernel."""

import numpy as np
import tensorflow as tf


def holds_tensor(times):
    """Whether times may need a gradient: they are a tensor, or hold one."""
    return any(tf.is_tensor(time) for time in tf.nest.flatten(times))


def as_float64(times):
    """Returns times in float64, differentiable in the tensors that they hold.

    `tf.cast` reads Python floats as float32.
    """
    if not holds_tensor(times):
        return tf.convert_to_tensor(np.asarray(times, np.float64))
    if isinstance(times, (list, tuple)):
        times = tf.stack([as_float64(time) for time in times])
    return tf.cast(times, tf.float64)


def flat_ode_fn(ode_fn, structure, check=None):
    """Makes dynamics of a nested state take and return lists of leaves.

    The derivative is cast to the dtype of the leaves, where that was widened,
    and inherits their static shape.

    Args:
        ode_fn: Callable `(t, state) -> derivative`.
        structure: Nested structure of tensors, or of their `TensorSpec`s.
        check: Callable `(derivative, state)` that returns the derivative as
            tensors; or `None` (default).
    """
    dtypes = [tf.as_dtype(leaf.dtype) for leaf in tf.nest.flatten(structure)]

    def flat(t, leaves):
        state = [tf.cast(a, d) for a, d in zip(leaves, dtypes, strict=True)]
        state = tf.nest.pack_sequence_as(structure, state)
        derivative = ode_fn(tf.cast(t, dtypes[0]), state)
        if check is not None:
            derivative = check(derivative, state)
        slopes = []
        flat_derivative = tf.nest.flatten(derivative)
        for slope, leaf in zip(flat_derivative, leaves, strict=True):
            slope = tf.cast(slope, leaf.dtype)
            slope.set_shape(leaf.shape)
            slopes.append(slope)
        return slopes

    return flat


def solved_dtype(dtype):
    """Returns the dtype to solve in: half precision is solved in float32."""
    return tf.float32 if dtype.size < 4 else dtype


def widen(leaves):
    """Casts leaves to the dtype in which they are solved."""
    return [tf.cast(leaf, solved_dtype(leaf.dtype)) for leaf in leaves]
