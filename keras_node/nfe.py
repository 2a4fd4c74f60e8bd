"""Numbers of function evaluations as Keras metrics."""

import tensorflow as tf


def update(metric, num_evaluations):
    """Adds a count, with a clock for each sample its mean over the batch."""
    metric.update_state(_mean(num_evaluations))


def add(metric, num_evaluations):
    """Adds a count to the one before, as part of the same pass."""
    metric.total.assign_add(_mean(num_evaluations))


def _mean(num_evaluations):
    return tf.reduce_mean(tf.cast(num_evaluations, tf.float32))
