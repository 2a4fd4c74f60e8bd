"""The search for events in an accepted step, on its dense output."""

import numpy as np
import tensorflow as tf

from keras_node.solvers import bracketing, clocks, step

# The sign of a condition is looked at this often in a step, its end included.
_NUM_LOOKS = 8
# A value at a zero that is larger than this share of those in the step belongs
# to a condition that jumps.
_LARGEST_VALUE = 1e-2
# Infinite values count as this.
_HUGE = 1e300


class EventSearch:
    """Searches steps for the first event of each clock.

    Args:
        events: `TracedEvents`.
        tableau: `ButcherTableau`, for its dense output.
        direction: 1 or -1 per clock.
    """

    def __init__(self, events, tableau, direction):
        self._events = events
        self._tableau = tableau
        self._direction = direction

    def find(self, state, span, y1):
        """Searches a step.

        Args:
            state: `EventState`.
            span: `Span` with all increments.
            y1: List of leaves, the state at its end.

        Returns:
            The `EventState`, in which clocks with an event have the next
            attempt's `stop` and `index`, others the signs at the step's end;
            and in which clocks a condition is not a number, before any event.
        """
        values = self._values_in(span, y1)
        crosses, signs = self._crossings(state, values)
        is_nan = self._are_unknown(state, values, crosses) & span.accepted
        has_crossed = tf.reduce_any(crosses, axis=1) & span.accepted & ~is_nan
        has_event = tf.reduce_any(has_crossed, axis=0)
        theta, index, slope, ahead = tf.cond(
            tf.reduce_any(has_event),
            lambda: self._locate(span, values, signs, crosses, has_crossed),
            lambda: (
                tf.ones_like(span.t),
                state.index,
                state.slope,
                state.signs_ahead,
            ),
        )
        stop = self._time_at(span, theta)
        signs = signs[:, -1]
        advances = span.accepted & ~has_event & ~is_nan
        return (
            state._replace(
                signs=tf.where(advances, signs, state.signs),
                signs_ahead=tf.where(has_event, ahead, state.signs_ahead),
                stop=tf.where(has_event, stop, np.inf * self._direction),
                index=tf.where(has_event, index, -1),
                size=tf.where(has_event, tf.abs(span.dt), state.size),
                slope=tf.where(has_event, slope, state.slope),
            ),
            is_nan,
        )

    def _time_at(self, span, theta):
        """Returns a time within a step, behind its start and not its end."""
        inside = span.t + theta * span.dt
        behind = tf.math.nextafter(span.t, self._direction * np.inf)
        is_behind = self._direction * (inside - span.t) > 0.0
        inside = tf.where(is_behind, inside, behind)
        is_before = (theta < 1.0) & (self._direction * (span.t1 - inside) > 0.0)
        return tf.where(is_before, inside, span.t1)

    def _values_in(self, span, y1):
        """Returns the conditions in a step, `(E, looks, batch)`."""
        theta = np.arange(1, _NUM_LOOKS)[:, None] / _NUM_LOOKS
        theta = theta * tf.ones_like(span.t)
        rows = self._interpolate(span, theta)
        values = [
            self._events.conditions(
                span.t + theta[n] * span.dt, [leaf[n] for leaf in rows]
            )
            for n in range(_NUM_LOOKS - 1)
        ]
        values.append(self._events.conditions(span.t1, y1))
        return tf.clip_by_value(tf.stack(values, axis=1), -_HUGE, _HUGE)

    def _interpolate(self, span, theta):
        """Returns the states at time-major `theta`."""
        return step.interpolate(
            clocks.one_row(span.y),
            [clocks.one_row(increment) for increment in span.increments],
            step.dense_weights(self._tableau, theta),
        )

    def _crossings(self, state, values):
        """Returns where conditions change their sign, and their last signs.

        A condition that reaches 0 has changed it.

        Returns:
            Booleans `(E, looks, batch)`; and float64 `(E, looks + 1, batch)`,
            the last sign before each look and at the end.
        """
        directions = self._events.per_event(lambda e: float(e.direction))
        directions = tf.cast(directions, tf.float64)
        may_fire = self._may_fire(state)
        last, lasts, crosses = state.signs, [state.signs], []
        for value in tf.unstack(values, num=_NUM_LOOKS, axis=1):
            sign = tf.sign(value)
            changes = tf.not_equal(last * sign, 1.0) & tf.not_equal(last, 0.0)
            changes &= (directions * last <= 0.0) & ~tf.math.is_nan(sign)
            crosses.append(changes & may_fire)
            is_known = tf.not_equal(sign, 0.0) & ~tf.math.is_nan(sign)
            last = tf.where(is_known, sign, last)
            lasts.append(last)
        return tf.stack(crosses, axis=1), tf.stack(lasts, axis=1)

    def _may_fire(self, state):
        """Returns which events happen when their condition crosses 0."""
        # A reset that finds no room fails; others are not recorded any more.
        limits = self._events.per_event(
            lambda e: np.iinfo(np.int32).max if e.has_reset else e.max_events
        )
        return state.counts < limits

    def _are_unknown(self, state, values, crosses):
        """Returns where a condition is not a number before any crossing."""
        is_nan = tf.math.is_nan(values) & self._may_fire(state)[:, None]
        has_crossed = tf.cumsum(
            tf.cast(tf.reduce_any(crosses, axis=0), tf.int32), axis=0
        )
        is_before = tf.equal(has_crossed, 0)
        return tf.reduce_any(is_nan & is_before, axis=[0, 1])

    def _locate(self, span, values, signs, crosses, has_crossed):
        """Returns the first zero of each clock; arguments are those of `find`.

        As a share of the step, with the number of its condition, the slope of
        its values, and the signs of all conditions just before it.
        """
        first = tf.argmax(tf.cast(crosses, tf.int32), 1, tf.int32)
        after = _at_look(values, first)
        before = _at_look(values, tf.maximum(first - 1, 0))
        is_regular = (first > 0) & tf.equal(tf.sign(before), -tf.sign(after))
        # At the start, and where the last sign other than 0 is older, it has
        # the sign that it last had, whatever rounding says.
        size = tf.maximum(tf.abs(after), np.finfo(np.float64).tiny)
        last = _at_look(signs[:, :-1], first)
        before = tf.where(is_regular, before, last * size)
        high = tf.cast(first + 1, tf.float64) / _NUM_LOOKS
        low = tf.where(has_crossed, high - 1.0 / _NUM_LOOKS, high)
        theta, at_zero = bracketing.find_zero(
            lambda theta: self._conditions_at(span, theta),
            low,
            high,
            before,
            after,
        )
        slopes = self._slopes_before(span, values, first, theta, at_zero)
        theta = tf.where(has_crossed, theta, 2.0)
        index = tf.argmin(theta, axis=0, output_type=tf.int32)
        is_it = tf.equal(index, tf.range(tf.shape(theta)[0])[:, None])
        at = tf.reduce_max(tf.where(is_it, first, 0), axis=0)
        return (
            tf.reduce_min(theta, axis=0),
            index,
            tf.reduce_max(tf.where(is_it, slopes, 0.0), axis=0),
            _at_look(signs[:, :-1], tf.zeros_like(first) + at),
        )

    def _slopes_before(self, span, values, first, theta, at_zero):
        """Returns the largest values before the zeros `theta`, by their time.

        Looks alone would not do: all may lie behind a zero. A condition that
        jumps has no zero, and an infinite slope.
        """
        middle = tf.abs(self._conditions_at(span, 0.5 * theta))
        is_before = tf.range(_NUM_LOOKS)[:, None] < first[:, None]
        sizes = tf.abs(values)
        before = tf.reduce_max(tf.where(is_before, sizes, 0.0), axis=1)
        slopes = tf.maximum(before, middle) / (theta * tf.abs(span.dt))
        # A zero has a value near 0.
        around = tf.reduce_max(tf.where(sizes < _HUGE, sizes, 0.0), axis=1)
        largest = _LARGEST_VALUE * tf.maximum(around, middle)
        jumps = ~(tf.abs(at_zero) <= largest)
        return tf.where(jumps, np.float64(np.inf), slopes)

    def _conditions_at(self, span, theta):
        """Returns each condition at a time of its own, `(E, batch)`."""
        rows = self._interpolate(span, theta)
        return tf.stack(
            [
                self._events.condition(
                    number,
                    span.t + theta[number] * span.dt,
                    [leaf[number] for leaf in rows],
                )
                for number in range(len(self._events.events))
            ]
        )


def _at_look(values, number):
    """Returns the values `(E, batch)` of looks `(E, batch)`."""
    chosen = tf.equal(tf.range(_NUM_LOOKS)[:, None], number[:, None])
    return tf.reduce_sum(tf.where(chosen, values, 0.0), axis=1)
