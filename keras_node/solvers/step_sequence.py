"""The steps of a solve, as differentiable functions of the requested times.

The step size controller is not part of the function that a network learns, so
gradients do not flow through it: each step keeps its relative position in the
interval that it divides, and moves with the ends of that interval. An end may
be a jump of the dynamics.
"""

import typing

import tensorflow as tf

from keras_node.common import tf_internals
from keras_node.solvers import clocks, pieces, step


class AdaptiveSteps(typing.NamedTuple):
    """Recorded steps of a step size controller, which divide the whole solve.

    Attributes:
        num_steps: Integer scalar.
        t: `TensorArray` of float64 per clock, where each step starts.
        dt: The same for its signed size; 0 in clocks that did not advance.
        output_steps: Integer per clock for each requested time: the step that
            reached it, or -1; `None` if only the end was requested.
        events: `EventRecord`, or `None`: steps end at events as at jumps.
    """

    num_steps: tf.Tensor
    t: tf.TensorArray
    dt: tf.TensorArray
    output_steps: tf.Tensor
    events: typing.Any = None

    # Requested times lie within steps.
    lands_on_outputs = False

    def at(self, n, times, jumps=None):
        """Returns `(t, dt)` of step `n`, differentiable in times and jumps."""
        jumps = self.with_events(jumps)
        return moved(*self.values_at(n, times), times, jumps)

    def with_events(self, jumps):
        """Returns jumps with the events among them, which do not move."""
        return jumps if self.events is None else self.events.with_jumps(jumps)

    def values_at(self, n, times):
        """Returns `(t, dt)` of step `n` as they were recorded."""
        return self.t.read(n), self.dt.read(n)

    def at_each(self, numbers, times, jumps=None):
        """Returns `(t, dt)` of the steps with time-major numbers, per clock."""
        t, dt = [
            clocks.rows_of(array.stack(), numbers)
            for array in (self.t, self.dt)
        ]
        return moved(t, dt, times, self.with_events(jumps))

    def frozen(self):
        """Returns the same steps, cut off from the solve that chose them.

        Autodiff would follow the arrays back into that solve, and multiply
        values there, which may not be finite, by zeros.
        """
        t, dt = [
            array.unstack(tf.stop_gradient(array.stack()))
            for array in (self.t, self.dt)
        ]
        events = self.events and self.events.frozen()
        return self._replace(t=t, dt=dt, events=events)

    def capacity(self):
        """Returns the size of an array with an entry for each step.

        XLA must know it before the solve, so it gets the largest possible.
        """
        return self.t.size() if tf_internals.in_xla() else self.num_steps


def moved(t, dt, times, jumps=None):
    """Makes steps move with their intervals in gradients; values stay.

    Args:
        t, dt: Float64 per clock, or time-major rows of them.
        times, jumps: As in `Pieces`.
    """
    start, end = pieces.ends(t, times, jumps)
    length = end - start
    # A clock with an interval of length 0 has no steps to move.
    stretch = tf.math.divide_no_nan(length, tf.stop_gradient(length))
    shifted = start + (t - tf.stop_gradient(start)) * stretch
    stretched = dt * stretch
    return (
        t + (shifted - tf.stop_gradient(shifted)),
        dt + (stretched - tf.stop_gradient(stretched)),
    )


class FixedSteps(typing.NamedTuple):
    """Steps of equal size within each interval between requested times.

    Attributes:
        num_steps: Integer scalar.
        ends: `(T - 1,)` integers, steps taken by the end of each interval.
        counts: `(T - 1,)` integers, steps in each interval; 0 in one of
            length 0.
    """

    num_steps: tf.Tensor
    ends: tf.Tensor
    counts: tf.Tensor

    # The last step of an interval ends at a requested time.
    lands_on_outputs = True

    @classmethod
    def divide(cls, times, step_size):
        """Divides each interval into steps no longer than `step_size`.

        Args:
            times: Float64 `(T,)` or `(T, batch)`.
            step_size: Positive float, or `None` for one step each.
        """
        lengths = tf.abs(times[1:] - times[:-1])
        clock_axes = list(range(1, lengths.shape.rank))
        # An empty batch has no longest interval, and takes no step.
        lengths = tf.maximum(tf.reduce_max(lengths, axis=clock_axes), 0.0)
        if step_size is None:
            steps = tf.sign(lengths)
        else:
            # A length of 3 * 0.1 is 0.30000000000000004 and needs 3 steps.
            steps = tf.math.ceil(lengths / step_size * (1 - 1e-9))
        # Beyond int32 every solve has run out of steps anyway.
        counts = tf.cast(tf.minimum(steps, 1e9), tf.int32)
        ends = tf.cumsum(tf.cast(counts, tf.int64))
        ends = tf.cast(tf.minimum(ends, tf.int32.max), tf.int32)
        return cls(num_steps=ends[-1], ends=ends, counts=counts)

    def interval(self, n):
        """Returns the number of the interval that step `n` belongs to."""
        return tf.reduce_sum(tf.cast(self.ends <= n, tf.int32))

    def at(self, n, times, jumps=None):
        """Returns `(t, dt)` of step `n`, differentiable in `times`.

        Jumps move the steps as far as they are among the times.
        """
        # Without any steps there is still a first one, of length 0.
        i = tf.minimum(self.interval(n), tf.shape(self.ends)[0] - 1)
        left, right = tf.gather(times, i), tf.gather(times, i + 1)
        count = tf.gather(self.counts, i)
        done = n - (tf.gather(self.ends, i) - count)
        dt = (right - left) / tf.cast(tf.maximum(count, 1), tf.float64)
        return left + tf.cast(done, tf.float64) * dt, dt

    # Nobody differentiates it.
    values_at = at

    def with_events(self, jumps):
        """Returns the jumps: fixed steps do not look for events."""
        return jumps

    def sources(self):
        """Returns, for each requested time, the row of the first equal one.

        An interval of length 0 has no step to land at its end.
        """
        first = tf.searchsorted(self.ends, self.ends) + 1
        rows = tf.where(self.ends > 0, first, 0)
        return tf.concat([[0], rows], axis=0)

    def landing(self, n):
        """Returns the row of the requested time at the end of step `n`.

        If there is none, the number of requested times: one past the last row.
        """
        i = self.interval(n)
        lands = tf.equal(tf.gather(self.ends, i), n + 1)
        return tf.where(lands, i + 1, tf.shape(self.ends)[0] + 1)


class StepRecorder:
    """Keeps the times and sizes of the accepted steps, but no states.

    A recorder's `start` makes the record that a solve carries along, `record`
    adds a step to it, and `steps` returns the steps in it.
    """

    class Record(typing.NamedTuple):
        """The number of steps, and where each starts and how long it is."""

        num_steps: tf.Tensor
        t: tf.TensorArray
        dt: tf.TensorArray

    def __init__(self, max_num_steps):
        self._max_num_steps = max_num_steps

    def evaluator(self, ode_fn):
        """Returns the dynamics for one step, such that they are recorded."""
        return step.Evaluator(ode_fn)

    def start(self, t, y, f, evaluated):
        """Returns an empty record for clocks like `t`."""
        t_array, dt_array = [
            tf.TensorArray(
                tf.float64,
                size=self._max_num_steps,
                element_shape=t.shape,
                clear_after_read=False,
            )
            for _ in range(2)
        ]
        # One entry gives the array the shape of clocks, even without steps.
        return StepRecorder.Record(
            num_steps=tf.constant(0),
            t=t_array.write(0, t),
            dt=dt_array.write(0, tf.zeros_like(t)),
        )

    def record(self, record, advanced, t, dt, y, f, evaluated):
        """Adds a step from `(t, y)`; it stays if any clock `advanced`.

        A step that was rejected in every clock is overwritten by the next.
        """
        n = record.num_steps
        return record._replace(
            num_steps=n + tf.cast(tf.reduce_any(advanced), tf.int32),
            t=record.t.write(n, t),
            dt=record.dt.write(n, tf.where(advanced, dt, 0.0)),
        )

    def steps(self, record, output_steps):
        """Returns the recorded `AdaptiveSteps`."""
        return AdaptiveSteps(
            record.num_steps, record.t, record.dt, output_steps
        )
