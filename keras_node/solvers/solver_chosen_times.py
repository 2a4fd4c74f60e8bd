"""Recorder of every accepted step, for `ChosenBySolver`."""

import typing

import tensorflow as tf

from keras_node.solvers.step import Evaluator


class TrajectoryRecorder:
    """Keeps the time and state of every accepted step; see `StepRecorder`."""

    class Record(typing.NamedTuple):
        """The number of steps, and where each starts."""

        num_steps: tf.Tensor
        t: tf.TensorArray
        y: list

    def evaluator(self, ode_fn):
        """Returns the dynamics for one step, such that they are recorded."""
        return Evaluator(ode_fn)

    def start(self, t, y, f, evaluated):
        """Returns an empty record."""
        arrays = [
            tf.TensorArray(
                leaf.dtype,
                size=0,
                dynamic_size=True,
                clear_after_read=False,
                element_shape=leaf.shape,
            )
            for leaf in [t, *y]
        ]
        return self.Record(tf.constant(0), arrays[0], arrays[1:])

    def record(self, record, advanced, t, dt, y, f, evaluated):
        """Adds a step from `(t, y)`; if rejected, the next overwrites it."""
        n = record.num_steps
        return self.Record(
            n + tf.cast(advanced, tf.int32),
            record.t.write(n, t),
            [a.write(n, leaf) for a, leaf in zip(record.y, y, strict=True)],
        )

    def steps(self, record, output_steps):
        """Returns `None`: a trajectory is not differentiated."""

    def trajectory(self, record, end_time, end_state):
        """Returns `(times, states)` after each step, the last included."""
        n = tf.maximum(record.num_steps, 1)
        times = tf.concat([record.t.stack()[1:n], end_time], axis=0)
        states = [
            tf.concat([array.stack()[1:n], leaf], axis=0)
            for array, leaf in zip(record.y, end_state, strict=True)
        ]
        return times, states
