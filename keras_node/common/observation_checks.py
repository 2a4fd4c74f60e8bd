"""Checks of time series: shapes, sorted times, and finite values."""

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
            "There must be at least one time; mask it if nothing was observed. "
            f"Received: shapes {shapes}"
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
    """Checks that filled times are finite and sorted.

    Eagerly it raises at once; in a graph it returns an operation that does.
    Under XLA nothing is checked.
    """
    steps = filled[..., 1:] - filled[..., :-1]
    is_sorted = tf.reduce_all(steps >= 0)
    is_finite = tf.reduce_all(tf.math.is_finite(filled))
    message = (
        "`times` must be finite and in ascending order, for each sample, "
        "where something is observed; sort the observations, or mask what is "
        "not an observation. Received: times="
    )
    return _check(is_sorted & is_finite, message, times)


def check_finite(values, mask):
    """Checks that observed values are finite; see `check_sorted`."""
    is_finite = tf.reduce_all(tf.math.is_finite(values) | ~mask)
    message = (
        "`values` must be finite where the mask says that they are observed. "
        "Received: values="
    )
    return _check(is_finite, message, values)


def check_inside(window, times, needed):
    """Checks that needed times are in the window; see `check_sorted`."""
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
