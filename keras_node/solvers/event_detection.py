"""The face of the events towards the adaptive loop, and that of none."""

import numpy as np
import tensorflow as tf

from keras_node.solvers import dense_output
from keras_node.solvers.event_landing import EventLanding
from keras_node.solvers.event_record import EventRecord, EventState
from keras_node.solvers.event_search import EventSearch
from keras_node.solvers.pieces import Pieces, direction_of


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

    def look(self, state, trial, span):
        """Returns the trial and the state, and no evaluation."""
        return trial, state, 0

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
        self._num_rows = events.num_rows
        self._tableau = tableau
        self._ode_fn = ode_fn
        self._where = times, jumps, dtype
        self._direction = direction_of(times)
        self._search = EventSearch(events, tableau, self._direction)
        self._landing = EventLanding(events, ode_fn, self._direction)

    def start(self, t, y, f, h):
        """Returns the `EventState` at the first time.

        Args:
            t: Float64 per clock.
            y, f: Lists of leaves, state and derivative.
            h: Float64 per clock, the first step size.
        """
        nowhere = np.inf * self._direction
        none = tf.fill(tf.shape(t), -1)
        signs = self._landing.first_signs(t, y, f, h)
        stops, indices = [
            tf.tile(x[None], [self._num_rows, 1]) for x in (nowhere, none)
        ]
        return EventState(
            signs=signs,
            signs_ahead=signs,
            counts=tf.zeros_like(signs, tf.int32),
            stop=nowhere,
            index=none,
            size=h,
            slope=tf.zeros_like(t),
            record=EventRecord(
                stops,
                indices,
                times=np.nan * tf.ones_like(stops),
                has_ended=tf.zeros_like(t, tf.bool),
            ),
        )

    def pieces(self, state):
        """Returns the `Pieces` between jumps, events, and the one ahead."""
        times, jumps, dtype = self._where
        jumps = state.record.with_jumps(jumps)
        jumps = tf.concat([jumps, state.stop[None]], axis=0)
        return Pieces(times, jumps, dtype)

    def active(self, is_active, state):
        """Returns which clocks go on: those that no event has ended."""
        return is_active & ~state.record.has_ended

    def record(self, state):
        """Returns the `EventRecord`."""
        return state.record

    def look(self, state, trial, span):
        """Looks for events in an accepted step, the first in each clock.

        A step with an event is not accepted after all: the next attempt is to
        end at it. If that is rejected, the event is sought anew. Nor is a step
        accepted in which a condition is not a number before any event.

        Args:
            state: `EventState`.
            trial: `Trial`.
            span: `Span` of it.

        Returns:
            The trial, the state, and the evaluations of each clock.
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
        state, is_nan = self._search.find(state, span, trial.y1)
        is_cut = is_new & (state.index >= 0)
        stop = Pieces(*self._where).apart(state.stop, span.t)
        state = state._replace(stop=tf.where(is_cut, stop, state.stop))
        trial = trial._replace(
            accepted=trial.accepted & ~is_cut & ~is_nan,
            is_cut=is_cut,
            # As the dynamics' own: a smaller step may end before that.
            ratio=tf.where(is_nan, np.float64(np.nan), trial.ratio),
            # Nobody is to evaluate them again.
            increments=increments,
        )
        return trial, state, num_evaluations

    def land(self, before, state, trial, t, y, status):
        """Lets the events happen that a step has reached; see `EventLanding`.

        Args:
            before: `EventState` at the start of the step.
            state, trial: As `look` has returned them.
            t: Float64 per clock.
            y: List of leaves.
            status: Integer per clock.

        Returns:
            `(state, y, status, num_evaluations)`.
        """
        # A shorter step ends before it, and it is sought anew.
        index = tf.where(trial.accepted & trial.lands, before.index, -1)
        return self._landing.happen(state, index, trial, t, y, status)
