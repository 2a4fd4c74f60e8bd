"""Keras metrics for the cost and the drift of solves."""

import keras
import tensorflow as tf

from keras_node.common import tf_internals
from keras_node.common.nested_solves import is_within_dynamics


def is_counted():
    """Whether a solve, or its gradient, counts in the metrics.

    Those within dynamics do not, nor those within `tf.vectorized_map`, which
    cannot assign a variable.
    """
    return not is_within_dynamics() and not tf_internals.is_vectorized()


class NFE(keras.metrics.Mean):
    """The mean number of function evaluations (NFE) of a solve.

    A solve within the dynamics of another, or within `tf.vectorized_map`, is
    not counted.
    """

    def update_state(self, num_evaluations, sample_weight=None):
        """Counts a solve; with per-sample clocks, the mean over the batch."""
        if not is_counted():
            return
        super().update_state(_mean(num_evaluations), sample_weight)

    def add(self, num_evaluations):
        """Adds evaluations to the solve that was counted last."""
        if not is_counted():
            return
        self.total.assign_add(_mean(num_evaluations))


def _mean(num_evaluations):
    return tf.reduce_mean(tf.cast(num_evaluations, tf.float32))


class Largest(keras.metrics.Metric):
    """The largest value since the last reset, 0 if there was none.

    Across replicas, the mean of their largest values.

    Args:
        name: String.
    """

    def __init__(self, name, **kwargs):
        super().__init__(name=name, **kwargs)
        self.largest = self.add_variable(
            (), "zeros", aggregation="mean", name="largest"
        )

    def update_state(self, value, sample_weight=None):
        if not is_counted():
            return
        value = keras.ops.cast(value, self.largest.dtype)
        self.largest.assign(keras.ops.maximum(self.largest, value))

    def result(self):
        return keras.ops.convert_to_tensor(self.largest)
