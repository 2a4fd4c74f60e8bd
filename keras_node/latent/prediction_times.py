"""The times at which a model is to predict observations."""

import numpy as np
import tensorflow as tf

from keras_node.common import observation_checks
from keras_node.common.observations import times_in


def query_times(inputs, batch_size=None):
    """Returns times to predict at, float64 and sorted, `(T,)` or `(batch, T)`.

    Args:
        inputs: Dict with `times`.
        batch_size: Integer, the number of rows, or `None` (default).

    Raises:
        ValueError: If they are not 1-D or one row for each sample, or not
            sorted.
    """
    times, is_shared = times_in(inputs)
    if times.shape[-1] == 0 or not (
        is_shared or times.shape[:1].is_compatible_with([batch_size])
    ):
        raise ValueError(
            "The times to predict at must be of shape (T,), or of shape "
            "(batch, T) with a row for each sample, T being at least 1. "
            f"Received: times of shape {times.shape}"
        )
    if not is_shared and batch_size is not None:
        times = tf.ensure_shape(times, [batch_size, None])
    times = tf.cast(times, tf.float64)
    with tf.control_dependencies(
        [observation_checks.check_sorted(times, times)]
    ):
        return tf.identity(times)


def times_as_given(inputs, observed):
    """Returns the times as given, also where nothing is observed.

    This is to predict masked values. A masked time that is out of order, such
    as padding, is replaced by the one before it.

    Args:
        inputs: Dict, the model's input.
        observed: The `Observations` in it.
    """
    times = tf.cast(times_in(inputs)[0], tf.float64)
    needed = observed.observed
    if times.shape.rank == 1:
        needed = tf.reduce_any(needed, axis=0)
    # No time may be later than the next observed one.
    later = tf.where(needed, times, np.inf)
    limits = _running_extremum(tf.minimum, tf.reverse(later, [-1]))
    in_order = tf.math.is_finite(times) & (times <= tf.reverse(limits, [-1]))
    ordered = tf.where(in_order, times, -np.inf)
    running = _running_extremum(tf.maximum, ordered)
    return tf.where(tf.math.is_finite(running), running, observed.times)


def _running_extremum(function, times):
    """Returns the running maximum, or minimum, along the last axis."""
    time_major = times if times.shape.rank == 1 else tf.transpose(times)
    running = tf.scan(function, time_major)
    return running if times.shape.rank == 1 else tf.transpose(running)
