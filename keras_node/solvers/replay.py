"""Solves with known steps, open to autodiff.

A fixed-step method knows its steps from the start, an adaptive one after it
has solved. No step is chosen or rejected here, so plain autodiff works.
"""

import dataclasses
import typing

import numpy as np
import tensorflow as tf

from keras_node.common import tf_internals
from keras_node.common.arrays import array_of
from keras_node.common.first_order import first_order
from keras_node.solvers import (
    clocks,
    dense_output,
    dense_solution,
    landing,
    solution,
    step,
)
from keras_node.solvers.pieces import Pieces

_FIRST_ORDER = (
    "Events have first derivatives only: at a zero the rate of the condition "
    "is held. Received: a request for the second derivative of a solve with "
    "events"
)


class _Carry(typing.NamedTuple):
    n: tf.Tensor
    y: list
    f: list
    outputs: list
    record: typing.Any
    event_times: typing.Any


def replay(
    solver,
    ode_fn,
    times,
    steps,
    y,
    recorder=None,
    jumps=None,
    keeps_dense=False,
    events=None,
):
    """Takes `steps` from `(times[0], y)`; differentiable by autodiff.

    Args:
        solver: `OneStepSolver`.
        ode_fn: Callable `(t, leaves) -> leaves`.
        times: Float64 `(T,)` or `(T, batch)`.
        steps: `FixedSteps` or `AdaptiveSteps`.
        y: List of leaves.
        recorder: A recorder of states (see `StepRecorder`), or `None`.
        jumps: Jumps of the dynamics, as `pieces.sorted_jumps` returns them;
            `None` (default) for none.
        keeps_dense: Whether to return the `DenseSolution` of `AdaptiveSteps`.
            Default `False`.
        events: `TracedEvents`, or `None` (default); `steps` knows where they
            happened.

    Returns:
        `(states, record, dense, event_times)`: leaves with a leading axis for
        the requested times, what the recorder kept, the polynomials or `None`,
        and those of an `EventRecord` or `None`.
    """
    parts = Pieces(times, steps.with_events(jumps), y[0].dtype)
    writer = _writer(
        solver.tableau, ode_fn, parts, times, steps, jumps, keeps_dense
    )
    loop = _Replay(
        solver, ode_fn, times, steps, recorder, jumps, events, parts, writer
    )
    carry = loop.run(y)
    dense = writer.solution(y, carry) if keeps_dense else None
    event_times = carry.event_times if events else None
    return writer.finish(y, carry), carry.record, dense, event_times


@dataclasses.dataclass(frozen=True)
class _Replay:
    """The loop over known steps; `replay` says what its arguments are."""

    solver: typing.Any
    ode_fn: typing.Any
    times: tf.Tensor
    steps: typing.Any
    recorder: typing.Any
    jumps: typing.Any
    events: typing.Any
    parts: Pieces
    writer: typing.Any

    def run(self, y):
        """Takes all steps from the leaves `y`; returns the last `_Carry`."""
        limit = tf.minimum(self.steps.num_steps, self.solver.max_num_steps)
        return tf.while_loop(
            lambda carry: carry.n < limit,
            lambda carry: (self._take_step(carry),),
            (self._start(y),),
            parallel_iterations=1,
            maximum_iterations=self.solver.max_num_steps,
        )[0]

    def evaluator(self):
        """Returns the function of one step, which may keep what it did."""
        kind = self.recorder.evaluator if self.recorder else step.Evaluator
        return kind(self.ode_fn)

    def _start(self, y):
        step_fn = self.evaluator()
        f, record, event_times = [], (), ()
        if self.solver.tableau.fsal:
            t = tf.cast(self.parts.first(self.times), y[0].dtype)
            f = step_fn(t, y)
        if self.recorder:
            t, _ = self.steps.at(0, self.times, self.jumps)
            record = self.recorder.start(t, y, f, step_fn)
        if self.events:
            event_times = np.nan * tf.ones_like(self.steps.events.stops)
        return _Carry(
            tf.constant(0), y, f, self.writer.start(y), record, event_times
        )

    def _take_step(self, carry):
        t, dt = self.steps.at(carry.n, self.times, self.jumps)
        step_fn = self.evaluator()
        interval = self.parts.at(t).interval
        y1, f1, increments = self.solver.step(
            step_fn, interval, t, dt, carry.y, carry.f
        )
        record, event_times = carry.record, carry.event_times
        if self.events:
            y1, event_times = self._cross(carry, t + dt, y1)
        tableau = self.solver.tableau
        f1 = self.parts.restart(tableau, step_fn, t, dt, y1, f1)
        if self.recorder:
            is_taken = tf.ones_like(t, tf.bool)
            record = self.recorder.record(
                record, is_taken, t, dt, carry.y, carry.f, step_fn
            )
        outputs = self.writer.write(carry, t, dt, y1, increments)
        return _Carry(carry.n + 1, y1, f1, outputs, record, event_times)

    def _cross(self, carry, t1, y1):
        """Returns the state behind an event at `t1`, and the events' times."""
        reached = self.steps.events.reached(
            self.parts, *self.steps.values_at(carry.n, self.times)
        ).moving_with(t1)
        y1, time = landing.cross(self.ode_fn, self.events, reached, y1)
        *y1, time = first_order([*y1, time], _FIRST_ORDER)
        return y1, tf.where(reached.is_row, time, carry.event_times)


def _writer(tableau, ode_fn, parts, times, steps, jumps, keeps_dense):
    if not keeps_dense:
        if not dense_output.has_rows_within(times):
            return _EndWriter(steps)
        if steps.lands_on_outputs:
            return _LandingWriter(times, steps)
    return _DenseWriter(tableau, ode_fn, parts, times, steps, jumps)


class _EndWriter:
    """Writer for a solve of which only the end is requested."""

    def __init__(self, steps):
        self._steps = steps

    def start(self, y):
        return []

    def write(self, carry, t, dt, y1, increments):
        return []

    def finish(self, y, carry):
        succeeded = carry.n >= self._steps.num_steps
        end = solution.nan_unless(succeeded, carry.y)
        return [tf.stack(pair) for pair in zip(y, end, strict=True)]


class _LandingWriter:
    """Writer for a solve in which every requested time is the end of a step."""

    def __init__(self, times, steps):
        self._num_times = tf.shape(times)[0]
        self._steps = steps

    def start(self, y):
        return [
            array_of(leaf, self._num_times + 1).write(0, leaf) for leaf in y
        ]

    def write(self, carry, t, dt, y1, increments):
        row = self._steps.landing(carry.n)
        return [
            array.write(row, leaf)
            for array, leaf in zip(carry.outputs, y1, strict=True)
        ]

    def finish(self, y, carry):
        # Rows of times beyond `max_num_steps` were never written.
        is_written = tf.concat([[True], self._steps.ends <= carry.n], axis=0)
        rows = [
            tf.gather(
                array.write(self._num_times, leaf).stack(),
                self._steps.sources(),
            )
            for array, leaf in zip(carry.outputs, y, strict=True)
        ]
        return solution.nan_unless(is_written, rows)


class _DenseWriter:
    """Writer that keeps every step, and interpolates after the solve."""

    def __init__(self, tableau, ode_fn, parts, times, steps, jumps):
        self._tableau = tableau
        self._ode_fn = ode_fn
        self._pieces = parts
        self._times = times
        self._steps = steps
        self._jumps = jumps

    def start(self, y):
        num_arrays = 1 + len(self._tableau.c)
        # One more than the steps, as there may be none.
        size = self._steps.capacity() + 1
        return [[array_of(leaf, size) for leaf in y] for _ in range(num_arrays)]

    def write(self, carry, t, dt, y1, increments):
        increments = step.dense_increments(
            self._tableau,
            self._ode_fn,
            self._pieces.at(t).interval,
            t,
            dt,
            carry.y,
            increments,
        )
        return [
            [a.write(carry.n, leaf) for a, leaf in zip(*pair, strict=True)]
            for pair in zip(carry.outputs, [carry.y, *increments], strict=True)
        ]

    def solution(self, y, carry):
        """Returns the `DenseSolution`."""
        last = self._steps.capacity()
        # One more than the steps, as there may be none.
        size = last if tf_internals.in_xla() else last + 1
        state, *increments = [
            [
                array.write(last, leaf).stack()[:size]
                for array, leaf in zip(group, y, strict=True)
            ]
            for group in carry.outputs
        ]
        coefficients = dense_solution.polynomials(
            self._tableau, state, increments, axis=1
        )
        return dense_solution.DenseSolution.of(
            self._steps.num_steps,
            self._steps.t.stack(),
            self._steps.dt.stack(),
            coefficients,
        )

    def finish(self, y, carry):
        if not dense_output.has_rows_within(self._times):
            return _EndWriter(self._steps).finish(y, carry)
        reached = self._steps.output_steps[1:]
        number = tf.maximum(reached, 0)
        t, dt = self._steps.at_each(number, self._times, self._jumps)
        theta = tf.math.divide_no_nan(self._times[1:] - t, dt)
        # Far from the step that stands for none, powers overflow.
        theta = tf.where(reached >= 0, theta, tf.zeros_like(theta))
        weights = step.dense_weights(self._tableau, theta)
        last = self._steps.capacity()
        state, *increments = [
            [
                clocks.rows_of(a.write(last, leaf).stack(), number)
                for a, leaf in zip(group, y, strict=True)
            ]
            for group in carry.outputs
        ]
        state = step.interpolate(state, increments, weights)
        # The end itself: at an event, behind it.
        state = [
            tf.concat([leaf[:-1], end[None]], axis=0)
            for leaf, end in zip(state, carry.y, strict=True)
        ]
        is_written = reached >= 0
        if self._steps.events is not None:
            has_ended = self._steps.events.has_ended
            end = clocks.one_row(carry.y)
            state = clocks.select(is_written | ~has_ended, state, end)
            is_written |= has_ended
        state = solution.nan_unless(is_written, state)
        return [
            tf.concat([leaf[None], rest], axis=0)
            for leaf, rest in zip(y, state, strict=True)
        ]
