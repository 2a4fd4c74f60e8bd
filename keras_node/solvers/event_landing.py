"""Located events: whether they happen, and how the solve goes on."""

import numpy as np
import tensorflow as tf

from keras_node.solvers import clocks, failures, landing
from keras_node.solvers.event_record import Reached

# What a condition may differ from 0 on its surface: this many roundings of its
# terms, and as much as it changes in the time that this many roundings of the
# clock are, and of the step.
_ROUNDINGS_OF_TERMS = 8.0
_ROUNDINGS_OF_TIME = 64.0
# The clock's own.
_CLOCK = float(np.finfo(np.float64).eps)
# A rate that is smaller, relative to the condition in the step, is that of a
# solution which touches: two zeros that rounding cannot tell apart.
_GRAZING = 8.0
# A zero that is farther from where the dense output has it, as a share of the
# step, is none.
_FARTHEST = 0.5


class EventLanding:
    """Lets events happen, and knows with which signs the solution goes on.

    Args:
        events: `TracedEvents`.
        ode_fn: Callable `(t, leaves) -> leaves`.
        direction: 1 or -1 per clock.
    """

    def __init__(self, events, ode_fn, direction):
        self._events = events
        self._ode_fn = ode_fn
        self._direction = direction

    def first_signs(self, t, y, f, h):
        """Returns the signs at the first time; `h` is the first step size."""
        slopes = self._events.slopes(t, y, f)
        rates, no_lag = tf.abs(slopes.rates), tf.zeros_like(t)
        is_on = self._are_on(slopes, t, h, rates, no_lag)
        return self._signs(slopes, is_on)

    def _are_on(self, slopes, t, h, rates, lag):
        """Returns whether a state is on the surface of each condition.

        Args:
            slopes: `Slopes` there.
            t, h: Float64 per clock, its time, and the step that led to it.
            rates: Float64 `(E, batch)`, the largest of each condition around.
            lag: Float64 per clock, a time by which the state may be early.
        """
        time = _CLOCK * tf.abs(t) + slopes.epsilons * tf.abs(h)
        time = _ROUNDINGS_OF_TIME * time + 2.0 * tf.abs(lag)
        terms = _ROUNDINGS_OF_TERMS * slopes.epsilons * slopes.sizes
        width = rates * time + terms
        # One with an infinite rate is on no surface.
        return tf.abs(slopes.values) <= tf.where(
            tf.math.is_finite(width), width, 0.0
        )

    def _signs(self, slopes, is_on):
        """Returns the signs with which the solution goes on from a state.

        On a surface where the rate is unknown, 0: they are so until it leaves.
        """
        ahead = slopes.rates * self._direction
        ahead = tf.where(tf.math.is_nan(ahead), tf.zeros_like(ahead), ahead)
        return tf.sign(tf.where(is_on, ahead, slopes.values))

    def happen(self, state, index, trial, t, y, status):
        """Lets the events happen at which a step has ended.

        Args:
            state: `EventState`.
            index: Integer per clock, the number of the event, -1 for none.
            trial: `Trial`, the step.
            t: Float64 per clock, its end.
            y: List of leaves, the state there.
            status: Integer per clock.

        Returns:
            `(state, y, status, num_evaluations)`.
        """
        has_event = index >= 0
        count = landing.num_evaluations(self._events)
        return (
            *tf.cond(
                tf.reduce_any(has_event),
                lambda: self._happen(state, index, trial, t, y, status),
                lambda: (state, y, status),
            ),
            count * tf.cast(has_event, tf.int32),
        )

    def _happen(self, state, index, trial, t, y, status):
        events = self._events
        fires = tf.equal(index, tf.range(len(events.events))[:, None])
        left = events.per_event(lambda event: event.max_events) - state.counts
        is_terminal = events.per_event(lambda event: event.terminal)
        ends = tf.reduce_any(fires & is_terminal & (left <= 1), axis=0)
        reached = Reached(t, trial.piece.interval, index, ends, fires)
        found = landing.land(self._ode_fn, events, reached, y)
        status = tf.where(
            index >= 0, self._status(state, fires, left, t, found), status
        )
        signs = self._signs_behind(state, fires, t, found)
        happens = (index >= 0) & tf.equal(status, failures.SUCCESS)
        return (
            state._replace(
                signs=tf.where(index >= 0, signs, state.signs),
                counts=state.counts + tf.cast(fires & happens, tf.int32),
                record=state.record.with_row(
                    happens, t, index, found.time, ends
                ),
            ),
            clocks.select(happens, found.y, y),
            status,
        )

    def _status(self, state, fires, left, t, found):
        """Returns the status of clocks at an event that may not happen."""
        is_over = tf.reduce_any(fires & (left <= 0), axis=0)
        # Positive in the direction in which the condition has crossed.
        towards = -state.signs_ahead * self._direction
        rates, epsilons = [
            tf.reduce_sum(tf.where(fires, x, 0.0), axis=0)
            for x in (found.slopes.rates * towards, found.slopes.epsilons)
        ]
        crosses = rates > _GRAZING * tf.sqrt(epsilons) * state.slope
        crosses &= tf.abs(found.time - t) <= _FARTHEST * state.size
        # The state behind a zero that is none may be anything.
        is_finite = clocks.are_finite(found.y, 1) | ~crosses
        is_finite &= tf.math.is_finite(rates)
        status = tf.where(crosses, failures.SUCCESS, failures.GRAZING)
        status = tf.where(is_finite, status, failures.NON_FINITE)
        return tf.where(is_over, failures.MAX_NUM_EVENTS, status)

    def _signs_behind(self, state, fires, t, found):
        """Returns the signs behind an event.

        Its own condition has changed sign. A reset changes all of them, but
        those that were about to change at the same time.
        """
        signs = tf.where(fires, -state.signs_ahead, state.signs_ahead)
        if not self._events.can_reset:
            return signs
        changes = self._events.per_event(lambda event: event.has_reset)
        resets = tf.reduce_any(fires & changes, axis=0)
        slopes = self._events.slopes(found.time, found.behind, found.f)
        # What the reset leaves of an error before it may be more than a slow
        # solution behind it covers.
        before = found.slopes.rates
        rates = tf.maximum(tf.abs(before), tf.abs(slopes.rates))
        is_on = self._are_on(
            slopes, found.time, state.size, rates, found.time - t
        )
        approaches = state.signs_ahead * before * self._direction < 0.0
        is_due = is_on & approaches & ~fires
        return tf.where(resets & ~is_due, self._signs(slopes, is_on), signs)
