"""Solves with known steps, open to autodiff.

A fixed-step method knows its steps from the start, an adaptive one after it
has solved. No step is chosen or rejected here, so plain autodiff works.
"""

import typing

import tensorflow as tf

from keras_node.common.arrays import array_of
from keras_node.solvers import clocks, dense_output, solution, step


class _Carry(typing.NamedTuple):
    n: tf.Tensor
    y: list
    f: list
    outputs: list
    record: typing.Any


def replay(solver, ode_fn, times, steps, y, recorder=None):
    """Takes `steps` from `(times[0], y)`; differentiable by autodiff.

    Args:
        solver: `ExplicitRungeKutta`.
        ode_fn: Callable `(t, leaves) -> leaves`.
        times: Float64 `(T,)` or `(T, batch)`.
        steps: `FixedSteps` or `AdaptiveSteps`.
        y: List of leaves.
        recorder: A recorder of states (see `StepRecorder`), or `None`.

    Returns:
        `(states, record)`: leaves with a leading axis for the requested
        times, and what the recorder kept.
    """
    tableau = solver.tableau
    interval = step.Interval.of(times)
    writer = _writer(tableau, ode_fn, interval, times, steps)
    limit = tf.minimum(steps.num_steps, solver.max_num_steps)
    first = tf.cast(times[0], y[0].dtype)
    start_fn = recorder.evaluator(ode_fn) if recorder else ode_fn
    f = start_fn(first, y) if tableau.fsal else []
    t0, _ = steps.at(0, times)

    def body(carry):
        t, dt = steps.at(carry.n, times)
        step_fn = recorder.evaluator(ode_fn) if recorder else ode_fn
        y1, f1, increments = step.runge_kutta_step(
            tableau, step_fn, interval, t, dt, carry.y, carry.f
        )
        record = carry.record
        if recorder:
            record = recorder.record(
                record,
                tf.ones_like(t, tf.bool),
                t,
                dt,
                carry.y,
                carry.f,
                step_fn,
            )
        outputs = writer.write(carry, t, dt, y1, increments)
        return (_Carry(carry.n + 1, y1, f1, outputs, record),)

    carry = _Carry(
        n=tf.constant(0),
        y=y,
        f=f,
        outputs=writer.start(y),
        record=recorder.start(t0, y, f, start_fn) if recorder else (),
    )
    carry = tf.while_loop(
        lambda carry: carry.n < limit,
        body,
        (carry,),
        parallel_iterations=1,
        maximum_iterations=solver.max_num_steps,
    )[0]
    return writer.finish(y, carry), carry.record


def _writer(tableau, ode_fn, interval, times, steps):
    if not dense_output.has_rows_within(times):
        return _EndWriter(steps)
    if steps.lands_on_outputs:
        return _LandingWriter(times, steps)
    return _DenseWriter(tableau, ode_fn, interval, times, steps)


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

    def __init__(self, tableau, ode_fn, interval, times, steps):
        self._tableau = tableau
        self._ode_fn = ode_fn
        self._interval = interval
        self._times = times
        self._steps = steps

    def start(self, y):
        num_arrays = 1 + len(self._tableau.c)
        # One more than the steps, as there may be none.
        size = self._steps.capacity() + 1
        return [[array_of(leaf, size) for leaf in y] for _ in range(num_arrays)]

    def write(self, carry, t, dt, y1, increments):
        increments = step.dense_increments(
            self._tableau,
            self._ode_fn,
            self._interval,
            t,
            dt,
            carry.y,
            increments,
        )
        return [
            [a.write(carry.n, leaf) for a, leaf in zip(*pair, strict=True)]
            for pair in zip(carry.outputs, [carry.y, *increments], strict=True)
        ]

    def finish(self, y, carry):
        reached = self._steps.output_steps[1:]
        number = tf.maximum(reached, 0)
        t, dt = self._steps.at_each(number, self._times)
        theta = tf.math.divide_no_nan(self._times[1:] - t, dt)
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
        state = solution.nan_unless(reached >= 0, state)
        return [
            tf.concat([leaf[None], rest], axis=0)
            for leaf, rest in zip(y, state, strict=True)
        ]
