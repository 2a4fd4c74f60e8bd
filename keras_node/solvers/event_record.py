"""Records of events: those that a solve has had, and the one ahead."""

import typing

import tensorflow as tf

from keras_node.solvers import step


class EventRecord(typing.NamedTuple):
    """The events that a solve has found, the first in row 0; per clock.

    Attributes:
        stops: Float64 `(K, batch)`, where the steps ended that reached them;
            infinite, in the direction of the clock, where there was none.
        indices: Integers `(K, batch)`, which event it was; -1 for none.
        times: Float64 `(K, batch)`, the times of the events; NaN for none.
        has_ended: Boolean per clock, whether the last one was terminal.
    """

    stops: tf.Tensor
    indices: tf.Tensor
    times: tf.Tensor
    has_ended: tf.Tensor

    def frozen(self):
        """Returns the same record, cut off from the solve."""
        return EventRecord(*map(tf.stop_gradient, self))

    def end(self, t, direction):
        """Returns where the solution ends: at its last event, if that ends it.

        The last step may have ended just before it.

        Args:
            t: Float64 per clock, the end of the last step.
            direction: 1 or -1 per clock.
        """
        is_last = tf.equal(self._numbers, self._count - 1)
        time = tf.reduce_sum(tf.where(is_last, self.times, 0.0), axis=0)
        is_behind = self.has_ended & (direction * (time - t) > 0.0)
        return tf.where(is_behind, time, t)

    def with_jumps(self, jumps):
        """Returns jumps, as `Pieces` take them, with the stops behind them.

        Of equal ones the first counts: a step to an event at a jump moves with
        the jump. The event does not: `landing.land` takes that back.
        """
        return tf.concat([jumps, tf.stop_gradient(self.stops)], axis=0)

    def reached(self, pieces, t, dt):
        """Returns the events that a recorded step has reached.

        Args:
            pieces: `Pieces`, with the stops among the jumps.
            t, dt: Float64 per clock, where the step starts and its size.

        Returns:
            `Reached`.
        """
        piece = pieces.at(t)
        # A step may have ended just before an event, which the next one found.
        lands = tf.not_equal(dt, 0.0) & tf.equal(dt, piece.end - t)
        is_row = tf.equal(self.stops, piece.end) & lands
        index = tf.reduce_max(tf.where(is_row, self.indices, -1), axis=0)
        is_last = is_row & tf.equal(self._numbers, self._count - 1)
        ends = self.has_ended & tf.reduce_any(is_last, axis=0)
        return Reached(piece.end, piece.interval, index, ends, is_row)

    def with_row(self, happens, *values):
        """Returns the record with another row in the clocks given.

        Args:
            happens: Boolean per clock.
            *values: Stop, index, time and end of the row, per clock.
        """
        stop, index, time, ends = values
        is_row = tf.equal(self._numbers, self._count) & happens
        return EventRecord(
            stops=tf.where(is_row, stop, self.stops),
            indices=tf.where(is_row, index, self.indices),
            times=tf.where(is_row, time, self.times),
            has_ended=self.has_ended | (happens & ends),
        )

    @property
    def _numbers(self):
        return tf.range(tf.shape(self.indices)[0])[:, None]

    @property
    def _count(self):
        return tf.reduce_sum(tf.cast(self.indices >= 0, tf.int32), axis=0)


class Reached(typing.NamedTuple):
    """The events at the end of a step.

    Attributes:
        t: Float64 per clock, where it ends.
        interval: `Interval` of its piece.
        index: Integer per clock, the number of the event, -1 for none.
        ends: Boolean per clock, whether it ends the solve.
        is_row: Booleans `(K, batch)`, its row in the record.
    """

    t: tf.Tensor
    interval: step.Interval
    index: tf.Tensor
    ends: tf.Tensor
    is_row: tf.Tensor

    def moving_with(self, end):
        """Returns the same, with the gradient of the step's end in `t`."""
        return self._replace(t=self.t + (end - tf.stop_gradient(end)))


class EventState(typing.NamedTuple):
    """What a solve knows of its events, between two attempts.

    Attributes:
        signs: Float64 `(E, batch)`, the last sign of each condition other than
            0; 0 where it has not left its surface yet.
        signs_ahead: The same just before the event that the next attempt is to
            end at.
        counts: Integers `(E, batch)`, how often each has fired.
        stop: Float64 per clock, where the next attempt is to end, because there
            is an event; else infinite in the direction of the clock.
        index: Integer per clock, the number of that event, or -1.
        size: Float64 per clock, the size of the step that it is in.
        slope: Float64 per clock, the largest value of its condition in the
            step before it, by the time from the step's start to it; infinite
            if the condition jumps.
        record: `EventRecord`.
    """

    signs: tf.Tensor
    signs_ahead: tf.Tensor
    counts: tf.Tensor
    stop: tf.Tensor
    index: tf.Tensor
    size: tf.Tensor
    slope: tf.Tensor
    record: EventRecord
