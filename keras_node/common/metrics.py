"""Keras metrics of the cost of solves, and of their drift."""

import typing

import keras
import tensorflow as tf


def update(metric, num_evaluations):
    """Adds a count, with a clock for each sample its mean over the batch."""
    metric.update_state(_mean(num_evaluations))


def add(metric, num_evaluations):
    """Adds a count to the one before, as part of the same pass."""
    metric.total.assign_add(_mean(num_evaluations))


def _mean(num_evaluations):
    return tf.reduce_mean(tf.cast(num_evaluations, tf.float32))


class Largest(keras.metrics.Metric):
    """The largest value since the last reset, 0 if there was none.

    Of several replicas, the mean of theirs.

    Args:
        name: String.
    """

    def __init__(self, name, **kwargs):
        super().__init__(name=name, **kwargs)
        self.largest = self.add_variable(
            (), "zeros", aggregation="mean", name="largest"
        )

    def update_state(self, value, sample_weight=None):
        value = keras.ops.cast(value, self.largest.dtype)
        self.largest.assign(keras.ops.maximum(self.largest, value))

    def result(self):
        return keras.ops.convert_to_tensor(self.largest)


class Report(typing.NamedTuple):
    """What a solve calls in its backward pass, to update a metric.

    Attributes:
        update: Callable of the metric and the value.
        metric: Keras metric.
    """

    update: typing.Callable
    metric: keras.metrics.Metric

    def __call__(self, value):
        self.update(self.metric, value)


def report_drift(metric):
    """Returns what `solve` takes as `on_drift`; `None` without a metric."""
    return None if metric is None else Report(_update, metric)


def _update(metric, value):
    metric.update_state(value)
