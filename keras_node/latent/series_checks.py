"""Whether time series are what a model can learn from."""

import tensorflow as tf


def check_shapes(values, times, mask):
    """Raises `ValueError` unless the shapes of a series fit together."""
    shapes = {"values": values.shape, "times": times.shape}
    fits = times.shape.is_compatible_with(
        values.shape[2 - times.shape.rank : 2]
    )
    if mask is not None:
        shapes["mask"] = mask.shape
        if shapes["mask"].rank not in (2, 3):
            raise ValueError(
                "`mask` must be of shape (batch, T), or (batch, T, "
                f"observation_dim). Received: mask of shape {mask.shape}"
            )
        expected = values.shape[: shapes["mask"].rank]
        fits &= shapes["mask"].is_compatible_with(expected)
    if values.shape[1] == 0:
        raise ValueError(
            "There must be at least one time; where there is nothing to see, "
            f"mask it. Received: shapes {shapes}"
        )
    if not fits:
        raise ValueError(
            "`values`, `times` and `mask` must agree in the number of samples "
            f"and of times. Received: shapes {shapes}"
        )


def check_targets(targets, values):
    """Raises `ValueError` unless there are targets for each sample."""
    if not targets.shape[:1].is_compatible_with(values.shape[:1]):
        raise ValueError(
            "`targets` must have as many samples as `values`. Received: "
            f"targets of shape {targets.shape}, values of shape {values.shape}"
        )


def check_sorted(times, filled):
    """Checks filled times: at once, or by an operation, which it returns.

    Under XLA nothing is checked.
    """
    steps = filled[..., 1:] - filled[..., :-1]
    is_sorted = tf.reduce_all(steps >= 0)
    is_finite = tf.reduce_all(tf.math.is_finite(filled))
    message = (
        "`times` must be finite and in ascending order, for each sample, "
        "where something is observed; sort the observations, or mask what is "
        "no observation. Received: times="
    )
    return _check(is_sorted & is_finite, message, times)


def check_finite(values, mask):
    """Checks values where they are observed; see `check_sorted`."""
    is_finite = tf.reduce_all(tf.math.is_finite(values) | ~mask)
    message = (
        "`values` must be finite where the mask says that they are observed. "
        "Received: values="
    )
    return _check(is_finite, message, values)


def check_inside(window, times, needed):
    """Checks needed times; see `check_sorted`."""
    is_inside = (times >= window[0]) & (times <= window[1])
    message = (
        f"`times` must lie within the window {window} of the point process. "
        "Received: times="
    )
    return _check(tf.reduce_all(is_inside | ~needed), message, times)


def _check(condition, message, tensor):
    if tf.executing_eagerly():
        if not condition:
            raise ValueError(message + str(tensor.numpy()))
        return tf.no_op()
    return tf.debugging.Assert(condition, [message, tensor])
