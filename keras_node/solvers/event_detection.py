"""The search for events in the steps of an adaptive solve."""

import typing

import numpy as np
import tensorflow as tf

from keras_node.solvers import (
    bracketing,
    clocks,
    dense_output,
    failures,
    landing,
    step,
)
from keras_node.solvers.event_record import EventRecord, Reached
from keras_node.solvers.pieces import Pieces, direction_of

# The sign of a condition is looked at this often in a step, its end included.
_NUM_LOOKS = 8
# What a condition may differ from 0 on its surface: as much as it changes in
# the time that this many roundings of the clock are, or of the step.
_ROUNDINGS = 64.0
# A rate that is smaller, relative to the condition in the step, is that of a
# solution which touches: two zeros that rounding cannot tell apart.
_GRAZING = 8.0
# A zero that is farther from where the dense output has it, as a share of the
# step, and a value there that is larger than this share of those in the step,
# belong to a condition that touches, or jumps.
_FARTHEST = 0.5
_LARGEST_VALUE = 1e-2


class EventState(typing.NamedTuple):
    """What a solve knows of its events, between two attempts.

    Attributes:
        signs: Float64 `(E, batch)`, the last sign of each condition other than
            0; 0 where it has not left its surface yet.
        counts: Integers `(E, batch)`, how often each has fired.
        stop: Float64 per clock, where the next attempt is to end, because there
            is an event; else infinite in the direction of the clock.
        index: Integer per clock, the number of that event, or -1.
        size: Float64 per clock, the size of the step that it is in.
        scale: Float64 per clock, the largest value of its condition there;
            infinite if it jumps.
        record: `EventRecord`.
    """

    signs: tf.Tensor
    counts: tf.Tensor
    stop: tf.Tensor
    index: tf.Tensor
    size: tf.Tensor
    scale: tf.Tensor
    record: EventRecord


class NoEvents:
    """What an `EventDetector` does, for a solve without events.

    Args:
        pieces: `Pieces` of the solve.
    """

    def __init__(self, pieces):
        self._pieces = pieces

    def start(self, t, y, f, h):
        """Returns the state: nothing."""
        return ()

    def pieces(self, state):
        """Returns the `Pieces` of the solve."""
        return self._pieces

    def active(self, is_active, state):
        """Returns which clocks go on: those that did."""
        return is_active

    def look(self, state, trial, span, status):
        """Returns the trial, the state and the status, and no evaluation."""
        return trial, state, status, 0

    def land(self, before, state, trial, t, y, status):
        """Returns the state, the leaves and the status, and no evaluation."""
        return state, y, status, 0

    def record(self, state):
        """Returns the `EventRecord`: none."""
        return None


class EventDetector:
    """Finds the events of a solve, each clock its own.

    Args:
        events: `TracedEvents`.
        tableau: `ButcherTableau`, for its dense output.
        ode_fn: Callable `(t, leaves) -> leaves`.
        times: Float64 `(T, batch)`.
        jumps, dtype: As of `Pieces`; there are jumps.
    """

    def __init__(self, events, tableau, ode_fn, times, jumps, dtype):
        self._events = events
        self._tableau = tableau
        self._ode_fn = ode_fn
        self._times = times
        self._jumps = jumps
        self._dtype = dtype
        self._ones = direction_of(times)
        self._epsilon = float(np.finfo(dtype.as_numpy_dtype).eps)

    def start(self, t, y, f, h):
        """Returns the `EventState` at the first time.

        Args:
            t: Float64 per clock.
            y, f: Lists of leaves, state and derivative.
            h: Float64 per clock, the first step size.
        """
        nowhere = np.inf * self._ones
        none = tf.fill(tf.shape(t), -1)
        signs, _ = self._signs_at(t, y, f, self._resolution(t, h))
        stops, indices = [
            tf.tile(x[None], [self._events.num_rows, 1])
            for x in (nowhere, none)
        ]
        return EventState(
            signs=signs,
            counts=tf.zeros_like(signs, tf.int32),
            stop=nowhere,
            index=none,
            size=h,
            scale=tf.zeros_like(t),
            record=EventRecord(
                stops,
                indices,
                times=np.nan * tf.ones_like(stops),
                has_ended=tf.zeros_like(t, tf.bool),
            ),
        )

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
        return tf.sign(tf.where(is_on, rates * self._ones, values)), is_on

    def pieces(self, state):
        """Returns the `Pieces` between jumps, events, and the one ahead."""
        jumps = state.record.with_jumps(self._jumps)
        jumps = tf.concat([jumps, state.stop[None]], axis=0)
        return Pieces(self._times, jumps, self._dtype)

    def active(self, is_active, state):
        """Returns which clocks go on: those that no event has ended."""
        return is_active & ~state.record.has_ended

    def record(self, state):
        """Returns the `EventRecord`."""
        return state.record

    def look(self, state, trial, span, status):
        """Looks for events in an accepted step, the first in each clock.

        A step with an event is not accepted after all: the next attempt is to
        end at it. If that is rejected, the event is sought anew.

        Args:
            state: `EventState`.
            trial: `Trial`.
            span: `Span` of it.
            status: Integer per clock.

        Returns:
            The trial, the state, the status, and the evaluations of each clock.
        """
        is_new = trial.accepted & (state.index < 0)
        span = span._replace(accepted=is_new)
        increments, num_evaluations = dense_output.all_increments(
            self._tableau,
            self._ode_fn,
            trial.piece.interval,
            span,
            trial.accepted,
        )
        span = span._replace(increments=increments)
        state, is_nan = self._search(state, span, trial.y1)
        is_cut = is_new & (state.index >= 0)
        trial = trial._replace(
            accepted=trial.accepted & ~is_cut,
            is_cut=is_cut,
            # Nobody is to evaluate them again.
            increments=increments,
        )
        status = tf.where(is_nan, failures.NON_FINITE, status)
        return trial, state, status, num_evaluations

    def _search(self, state, span, y1):
        """Searches a step for the first event of each clock.

        Returns:
            The `EventState`, in which clocks with an event have the next
            attempt's `stop` and `index`, others the signs at the step's end;
            and in which clocks the condition is not a number.
        """
        values = self._values_in(span, y1)
        crosses, signs = self._crossings(state, values)
        has_crossed = tf.reduce_any(crosses, axis=1) & span.accepted
        has_event = tf.reduce_any(has_crossed, axis=0)
        theta, index, scale = tf.cond(
            tf.reduce_any(has_event),
            lambda: self._locate(span, values, signs, crosses, has_crossed),
            lambda: (tf.ones_like(span.t), state.index, state.scale),
        )
        stop = self._time_at(span, theta)
        signs = signs[:, -1]
        advances = span.accepted & ~has_event
        is_nan = tf.reduce_any(tf.math.is_nan(values[:, -1]), axis=0)
        return (
            state._replace(
                signs=tf.where(advances, signs, state.signs),
                stop=tf.where(has_event, stop, np.inf * self._ones),
                index=tf.where(has_event, index, -1),
                size=tf.where(has_event, tf.abs(span.dt), state.size),
                scale=tf.where(has_event, scale, state.scale),
            ),
            advances & is_nan,
        )

    def _time_at(self, span, theta):
        """Returns a time within a step, behind its start and not its end."""
        inside = span.t + theta * span.dt
        behind = tf.math.nextafter(span.t, self._ones * np.inf)
        is_behind = self._ones * (inside - span.t) > 0.0
        inside = tf.where(is_behind, inside, behind)
        is_before = (theta < 1.0) & (self._ones * (span.t1 - inside) > 0.0)
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
        return tf.stack([*values, self._events.conditions(span.t1, y1)], axis=1)

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
        events = self._events
        directions = events.per_event(lambda e: float(e.direction))
        directions = tf.cast(directions, tf.float64)
        # A reset that finds no room fails; others are not recorded any more.
        limits = events.per_event(
            lambda e: np.iinfo(np.int32).max if e.has_reset else e.max_events
        )
        may_fire = state.counts < limits
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

    def _locate(self, span, values, signs, crosses, has_crossed):
        """Returns the first zero as a share of the step, whose, and the scale.

        The arguments are those that `_search` has found.
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
        theta = tf.where(has_crossed, theta, 2.0)
        index = tf.argmin(theta, axis=0, output_type=tf.int32)
        scale = tf.reduce_max(tf.abs(values), axis=1)
        # A zero has a value near 0.
        jumps = ~(tf.abs(at_zero) <= _LARGEST_VALUE * scale)
        scale = tf.where(jumps, np.float64(np.inf), scale)
        is_it = tf.equal(index, tf.range(tf.shape(theta)[0])[:, None])
        return (
            tf.reduce_min(theta, axis=0),
            index,
            tf.reduce_max(tf.where(is_it, scale, 0.0), axis=0),
        )

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

    def land(self, before, state, trial, t, y, status):
        """Lets the events happen at which a step has ended.

        Args:
            before: `EventState` at the start of the step.
            state: `EventState`.
            trial: `Trial`.
            t: Float64 per clock.
            y: List of leaves.
            status: Integer per clock.

        Returns:
            `(state, y, status, num_evaluations)`.
        """
        index = tf.where(trial.accepted, before.index, -1)
        landed = index >= 0
        num_evaluations = landing.num_evaluations(self._events)
        return (
            *tf.cond(
                tf.reduce_any(landed),
                lambda: self._land(state, index, trial, t, y, status),
                lambda: (state, y, status),
            ),
            num_evaluations * tf.cast(landed, tf.int32),
        )

    def _land(self, state, index, trial, t, y, status):
        events, landed = self._events, index >= 0
        fires = tf.equal(index, tf.range(len(events.events))[:, None])
        left = events.per_event(lambda event: event.max_events) - state.counts
        is_terminal = events.per_event(lambda event: event.terminal)
        ends = tf.reduce_any(fires & is_terminal & (left <= 1), axis=0)
        reached = Reached(t, trial.piece.interval, index, ends, fires)
        found = landing.land(self._ode_fn, events, reached, y)
        is_over = fires & (left <= 0)
        status = tf.where(
            tf.reduce_any(is_over, axis=0), failures.MAX_NUM_EVENTS, status
        )
        smallest = _GRAZING * np.sqrt(self._epsilon) * state.scale
        rate = tf.reduce_sum(tf.where(fires, found.rates, 0.0), axis=0)
        grazes = ~(tf.abs(rate) * state.size > smallest)
        grazes |= ~(tf.abs(found.time - t) <= _FARTHEST * state.size)
        status = tf.where(landed & grazes, failures.GRAZING, status)
        is_finite = clocks.are_finite(found.y, 1)
        status = tf.where(landed & ~is_finite, failures.NON_FINITE, status)
        happens = landed & tf.equal(status, failures.SUCCESS)
        return (
            state._replace(
                signs=self._signs_behind(state, fires, t, found),
                counts=state.counts + tf.cast(fires & happens, tf.int32),
                record=state.record.with_row(
                    happens, t, index, found.time, ends
                ),
            ),
            clocks.select(happens, found.y, y),
            status,
        )

    def _signs_behind(self, state, fires, t, found):
        """Returns the signs behind an event.

        Its own condition has changed sign. A reset changes all of them, but
        those that were about to change at the same time.
        """
        signs = tf.where(fires, -state.signs, state.signs)
        if not self._events.can_reset:
            return signs
        changes = self._events.per_event(lambda event: event.has_reset)
        resets = tf.reduce_any(fires & changes, axis=0)
        resolution = self._resolution(t, state.size)
        resolution += 2.0 * tf.abs(found.time - t)
        behind, is_on = self._signs_at(
            found.time, found.behind, found.f, resolution
        )
        approaches = state.signs * found.rates * self._ones < 0.0
        is_due = is_on & approaches & ~fires
        return tf.where(resets & ~is_due, behind, signs)


def _at_look(values, number):
    """Returns the values `(E, batch)` of looks `(E, batch)`."""
    chosen = tf.equal(tf.range(_NUM_LOOKS)[:, None], number[:, None])
    return tf.reduce_sum(tf.where(chosen, values, 0.0), axis=1)
