"""Located events: whether they happen, and how the solve goes on."""

import numpy as np
import tensorflow as tf

from keras_node.solvers import clocks, failures, landing
from keras_node.solvers.event_record import Reached

# What a condition may differ from 0 on its surface: as much as it changes in
# the time that this many roundings of the clock are, or of the step.
_ROUNDINGS = 64.0
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
        dtype: Dtype in which the conditions get the time.
    """

    def __init__(self, events, ode_fn, direction, dtype):
        self._events = events
        self._ode_fn = ode_fn
        self._direction = direction
        self._epsilon = float(np.finfo(dtype.as_numpy_dtype).eps)

    def first_signs(self, t, y, f, h):
        """Returns the signs at the first time; `h` is the first step size."""
        signs, _ = self._signs_at(t, y, f, self._resolution(t, h))
        return signs

    def _resolution(self, t, h):
        """Returns a length of time that cannot be told from 0."""
        size = tf.maximum(tf.abs(t), tf.abs(h))
        return _ROUNDINGS * self._epsilon * size

    def _signs_at(self, t, y, f, resolution):
        """Returns the signs with which the solution goes on from a state.

        Also whether the state is on the surface of each condition.
        """
        values = self._events.conditions(t, y)
        rates = self._events.rates(t, y, f)
        is_on = tf.abs(values) <= resolution * tf.abs(rates)
        return tf.sign(tf.where(is_on, rates * self._direction, values)), is_on

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
        rate = tf.reduce_sum(tf.where(fires, found.rates, 0.0), axis=0)
        smallest = _GRAZING * np.sqrt(self._epsilon) * state.scale
        crosses = tf.abs(rate) * state.size > smallest
        crosses &= tf.abs(found.time - t) <= _FARTHEST * state.size
        is_finite = clocks.are_finite(found.y, 1)
        status = tf.where(crosses, failures.SUCCESS, failures.GRAZING)
        status = tf.where(is_over, failures.MAX_NUM_EVENTS, status)
        return tf.where(is_finite, status, failures.NON_FINITE)

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
        resolution = self._resolution(t, state.size)
        resolution += 2.0 * tf.abs(found.time - t)
        behind, is_on = self._signs_at(
            found.time, found.behind, found.f, resolution
        )
        approaches = state.signs_ahead * found.rates * self._direction < 0.0
        is_due = is_on & approaches & ~fires
        return tf.where(resets & ~is_due, behind, signs)
