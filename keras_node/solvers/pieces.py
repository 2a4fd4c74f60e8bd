"""Pieces: what lies between the known jumps of the dynamics.

Dynamics may jump at times that are known before the solve. Steps end there,
and no evaluation of a step sees the dynamics on the other side, in the dtype in
which they get the time.
"""

import typing

import numpy as np
import tensorflow as tf

from keras_node.solvers import clocks
from keras_node.solvers.step import Interval

# A step that would leave less than this share of itself goes to the end.
_SLIVER = 1e-9
# The rounding of the clock, as a share of the time.
_ROUNDING = 1e-15


class Piece(typing.NamedTuple):
    """Where a clock is: between two jumps, or an end of the solve and one.

    Attributes:
        end: Float64 per clock.
        interval: `Interval`, from the first to the last time at which the
            dynamics may be evaluated.
        first: Float64 per clock, the earlier of these two in the direction of
            the solve.
        ends_at_jump: Boolean per clock, whether the solve goes on after `end`.
    """

    end: tf.Tensor
    interval: Interval
    first: tf.Tensor
    ends_at_jump: tf.Tensor


class Pieces:
    """The pieces of a solve.

    Args:
        times: Float64 `(T,)` or `(T, batch)`, at least two times.
        jumps: Float64 `(J,)` or `(J, batch)`, in any order, infinite in the
            direction of the clock where there is none, at least one of them;
            `None` for dynamics that do not jump.
        dtype: The dtype in which the dynamics get the time, of at least 32
            bits.
    """

    def __init__(self, times, jumps, dtype):
        self._times = tf.stop_gradient(times)
        self._jumps = None if jumps is None else tf.stop_gradient(jumps)
        self._dtype = tf.as_dtype(dtype)
        self._direction = tf.sign(self._times[-1] - self._times[0])
        if not self.has_jumps:
            first, last = self._times[0], self._times[-1]
            self._whole = Piece(
                end=last,
                interval=Interval(
                    tf.minimum(first, last), tf.maximum(first, last)
                ),
                first=first,
                ends_at_jump=tf.zeros_like(first, tf.bool),
            )

    @property
    def has_jumps(self):
        """Whether there may be more than one piece."""
        return self._jumps is not None

    def at(self, t):
        """Returns the `Piece` that lies ahead of a clock at `t`."""
        if not self.has_jumps:
            return self._whole
        t = tf.stop_gradient(t)
        start, end = ends(t, self._times, self._jumps)
        is_passed = self._direction * (self._jumps - t) <= 0.0
        has_passed = tf.reduce_any(is_passed, axis=0)
        is_jump = tf.reduce_any(tf.equal(self._jumps, end), axis=0)
        first = self._inside(start, self._direction, has_passed)
        last = self._inside(end, -self._direction, is_jump)
        return Piece(
            end=end,
            interval=Interval(tf.minimum(first, last), tf.maximum(first, last)),
            first=first,
            ends_at_jump=is_jump & tf.not_equal(end, self._times[-1]),
        )

    def first(self, times):
        """Returns the first time at which to evaluate, differentiably."""
        if not self.has_jumps:
            return times[0]
        return _like(self.at(times[0]).first, times[0])

    def lands_on_jump(self, t, dt):
        """Returns in which clocks a recorded step ended at a jump."""
        piece = self.at(t)
        has_moved = tf.not_equal(dt, 0.0)
        lands = self.reaches_end(tf.abs(dt), t, piece)
        return has_moved & lands & piece.ends_at_jump

    def apart(self, stop, t):
        """Returns a time that the dtype tells from the jumps around `t`.

        One that it does not tell from the jump ahead moves onto that, and one
        that it does not tell from the jump behind a rounding away from it:
        there is a time to evaluate the dynamics on the right side.

        Args:
            stop: Float64 per clock, a time in the piece ahead of `t`.
            t: Float64 per clock.
        """
        piece = self.at(t)
        first, last = tf.cast(piece.first, self._dtype), piece.interval
        last = tf.where(self._direction > 0.0, last.high, last.low)
        nearest = tf.cast(_next_after(first, self._direction), tf.float64)
        follows_jump = tf.not_equal(piece.first, self._times[0])
        is_near = self._direction * (_rounded(stop, self._dtype) - nearest) < 0
        stop = tf.where(follows_jump & is_near, nearest, stop)
        is_beyond = self._direction * (stop - piece.end) > 0.0
        stop = tf.where(is_beyond, piece.end, stop)
        is_near = self._direction * (_rounded(stop, self._dtype) - last) >= 0
        return tf.where(piece.ends_at_jump & is_near, piece.end, stop)

    def reaches_end(self, size, t, piece):
        """Returns whether a step would leave nothing of a piece but a sliver.

        Args:
            size: Float64 per clock, not negative.
            t: Float64 per clock, where it starts.
            piece: `Piece`.
        """
        remaining = tf.abs(piece.end - t) * (1 - _SLIVER)
        if self.has_jumps:
            # Equal steps to a jump may miss it by rounding.
            largest = tf.maximum(tf.abs(t), tf.abs(piece.end))
            remaining -= _ROUNDING * largest
        return size >= remaining

    def restart(self, tableau, evaluator, t, dt, y, f):
        """Returns the derivative after a recorded step, differentiably.

        Args:
            tableau: `ButcherTableau`.
            evaluator: `step.Evaluator` of the step.
            t, dt: Float64 per clock, where the step starts and its size.
            y, f: Lists of leaves, state and derivative at its end.
        """
        if not self.has_jumps or not tableau.fsal:
            return f
        behind = _like(self.behind(t, dt), t + dt)
        return evaluator.behind_jumps(
            self.lands_on_jump(t, dt), tf.cast(behind, self._dtype), y, f
        )

    def behind(self, t, dt):
        """Returns the first time of the piece after a recorded step."""
        piece = self.at(t)
        return self.at(tf.where(self.lands_on_jump(t, dt), piece.end, t)).first

    def _inside(self, bound, direction, is_jump):
        """Returns a bound; at a jump the next time that is not on it."""
        neighbour = _next_after(tf.cast(bound, self._dtype), direction)
        return tf.where(is_jump, tf.cast(neighbour, tf.float64), bound)


def ends(t, times, jumps):
    """Returns start and end of the piece ahead of `t`, differentiably.

    Args:
        t: Float64 per clock, or time-major rows of them.
        times, jumps: As in `Pieces`.
    """
    if jumps is None:
        return times[0], times[-1]
    is_one = t.shape.rank == times.shape.rank - 1
    rows = t[None] if is_one else t
    direction = direction_of(times)
    distances = tf.stop_gradient(direction * (jumps[:, None] - rows))
    is_passed = distances <= 0.0
    nearest = tf.where(is_passed, distances, -np.float64(np.inf))
    before = clocks.rows_of(jumps, tf.argmax(nearest, 0, tf.int32))
    nearest = tf.where(is_passed, np.float64(np.inf), distances)
    ahead = clocks.rows_of(jumps, tf.argmin(nearest, 0, tf.int32))
    has_more = tf.math.is_finite(tf.reduce_min(nearest, axis=0))
    # A jump at an end of the solve moves nothing.
    is_within = tf.reduce_any(is_passed, 0) & tf.not_equal(before, times[0])
    start = tf.where(is_within, before, times[0])
    is_within = has_more & tf.not_equal(ahead, times[-1])
    end = tf.where(is_within, ahead, times[-1])
    return (start[0], end[0]) if is_one else (start, end)


def num_restarts(times, jumps, end=None):
    """Returns how often a clock takes the derivative anew behind jumps.

    Args:
        times, jumps: As in `Pieces`.
        end: Float64 per clock, how far it has come; `None` (default) for all.
    """
    if jumps is None:
        return tf.zeros_like(times[0], tf.int32)
    if end is not None:
        is_reached = direction_of(times) * (end - jumps) >= 0.0
        jumps = tf.where(is_reached, jumps, np.float64(np.inf))
    is_within = tf.math.is_finite(jumps) & tf.not_equal(jumps, times[0])
    is_within &= tf.not_equal(jumps, times[-1])
    # Equal ones are one jump.
    is_new = tf.not_equal(jumps[1:], jumps[:-1])
    is_new = tf.concat([tf.ones_like(is_within[:1]), is_new], axis=0)
    return tf.reduce_sum(tf.cast(is_within & is_new, tf.int32), axis=0)


def _rounded(t, dtype):
    return tf.cast(tf.cast(t, dtype), tf.float64)


def _like(value, x):
    """Returns a value with the gradient of `x`."""
    return tf.stop_gradient(value) + (x - tf.stop_gradient(x))


def _next_after(t, direction):
    """Returns the next number of the dtype in the direction.

    That of 0 is the smallest normal one: others may be flushed to 0.
    """
    direction = tf.cast(direction, t.dtype)
    found = tf.math.nextafter(t, direction * t.dtype.max)
    tiny = float(np.finfo(t.dtype.as_numpy_dtype).tiny)
    return tf.where(tf.abs(found) < tiny, direction * tiny, found)


def sorted_jumps(jump_times, times):
    """Returns the jumps of each clock in its direction, infinities after them.

    Those outside the solve, and NaN, become infinities; there is at least one.

    Args:
        jump_times: Float64 `(J,)` or `(J, batch)`, in any order.
        times: Float64 `(T,)` or `(T, batch)`.
    """
    first, last = tf.stop_gradient(times[0]), tf.stop_gradient(times[-1])
    direction = tf.sign(last - first)
    if jump_times.shape.rank < times.shape.rank:
        jump_times = tf.tile(jump_times[:, None], [1, tf.shape(times)[1]])
    is_within = direction * (jump_times - first) >= 0.0
    is_within &= direction * (last - jump_times) >= 0.0
    keys = tf.where(is_within, direction * jump_times, np.inf)
    # `tf.sort` differentiates along the last axis alone.
    keys = tf.transpose(tf.sort(tf.transpose(keys)))
    nothing = tf.fill(tf.shape(times[:1]), np.float64(np.inf))
    return direction_of(times) * tf.concat([keys, nothing], axis=0)


def direction_of(times):
    """Returns 1 or -1 per clock; 1 in an interval of length 0."""
    direction = tf.stop_gradient(tf.sign(times[-1] - times[0]))
    ones = tf.ones_like(direction)
    return tf.where(direction < 0.0, -ones, ones)


def merged(times, jumps):
    """Returns the times with the jumps among them, and their rows there.

    Args:
        times: Float64 `(T,)` or `(T, batch)`.
        jumps: As `sorted_jumps` returns them.

    Returns:
        `(grid, rows)`: float64 `(T + J, ...)`, differentiable, in which
        neighbours may be equal; and integers like `times`.
    """
    direction = tf.stop_gradient(tf.sign(times[-1] - times[0]))
    is_within = tf.math.is_finite(jumps) & tf.not_equal(jumps, times[0])
    inner = tf.where(is_within, jumps, times[-1])
    # Of equal ones, the jump comes before the requested time.
    keys = direction * tf.concat([inner, times], axis=0)
    grid = direction * tf.transpose(tf.sort(tf.transpose(keys)))
    is_reached = direction * (grid[None] - times[:, None]) <= 0.0
    rows = tf.reduce_sum(tf.cast(is_reached, tf.int32), axis=1) - 1
    return grid, rows
