"""The backward pass of CheckpointAdjoint: step by step, last first."""

import typing

import tensorflow as tf

from keras_node.adjoints import checkpoint_store
from keras_node.adjoints.base import Gradients
from keras_node.adjoints.custom_gradient import dense, zeros_like_sources
from keras_node.solvers import clocks, dense_output, step


class _Carry(typing.NamedTuple):
    """The loop state, passed from each step to the one before."""

    n: tf.Tensor
    y_bar: list
    f_bar: list
    row: tf.Tensor
    times_bar: typing.Any
    source_bars: list
    store: checkpoint_store.Store
    num_evaluations: tf.Tensor


class Reversal:
    """The backward pass through one solve."""

    def __init__(self, problem, result, cotangents):
        self._problem = problem
        self._solver = problem.solver
        self._tableau = problem.solver.tableau
        self._times = problem.times
        self._interval = step.Interval.of(problem.times)
        self._steps = result.steps
        self._store = result.record.store
        self._status = result.diagnostics.status
        self._cotangents = cotangents
        has_rows = dense_output.has_rows_within(self._times)
        self._is_landing = has_rows and self._steps.lands_on_outputs
        if self._is_landing:
            # A row that no step landed on is a copy of one that a step did.
            self._cotangents = [
                tf.math.unsorted_segment_sum(
                    cotangent, self._steps.sources(), tf.shape(self._times)[0]
                )
                for cotangent in cotangents
            ]
        self._is_dense = has_rows and not self._steps.lands_on_outputs

    def run(self):
        """Returns the `Gradients`."""
        carry = self._start()
        carry = tf.while_loop(
            lambda carry: carry.n >= 0,
            lambda carry: (self._reverse_step(carry),),
            (carry,),
            # More than 1 would keep the activations of several steps alive.
            parallel_iterations=1,
            maximum_iterations=self._solver.max_num_steps,
        )[0]
        y_bar, times_bar, source_bars = self._reverse_start(carry)
        y_bar = [
            bar + cotangent[0]
            for bar, cotangent in zip(y_bar, self._cotangents, strict=True)
        ]
        return Gradients(y_bar, times_bar, source_bars, carry.num_evaluations)

    def _start(self):
        # The result of a failed solve is NaN, and depends on nothing.
        succeeded = tf.equal(self._status, 0)
        end = [cotangent[-1] for cotangent in self._cotangents]
        y_bar = clocks.zero_unless(succeeded, end)
        num_steps = tf.minimum(
            self._steps.num_steps, self._solver.max_num_steps
        )
        vary = self._problem.times_vary
        return _Carry(
            n=num_steps - 1,
            y_bar=y_bar,
            f_bar=[tf.zeros_like(leaf) for leaf in end]
            if self._tableau.fsal
            else [],
            row=self._last_row(),
            times_bar=tf.zeros_like(self._times) if vary else (),
            source_bars=zeros_like_sources(self._problem),
            store=self._store,
            num_evaluations=tf.constant(int(self._tableau.fsal)),
        )

    def _last_row(self):
        """Returns the last requested time before the end that was reached."""
        if not self._is_dense:
            return tf.zeros_like(self._status)
        reached = self._steps.output_steps[1:-1] >= 0
        return tf.reduce_sum(tf.cast(reached, tf.int32), axis=0)

    def _reverse_step(self, carry):
        store, y, f, num_repeated = self._restore(carry.store, carry.n)
        y_bar = self._add_landing(carry)
        sources = self._problem.field.local_sources()
        ode_fn = self._problem.field.at(sources)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([y, f, sources])
            times = self._watched_times(tape)
            t, dt = self._steps.at(carry.n, times)
            y1, f1, increments = step.runge_kutta_step(
                self._tableau, ode_fn, self._interval, t, dt, y, f
            )
            if self._is_dense:
                increments = step.dense_increments(
                    self._tableau,
                    ode_fn,
                    self._interval,
                    t,
                    dt,
                    y,
                    increments,
                )
        targets, cotangents = [y1, f1], [y_bar, carry.f_bar]
        row, times_bar = carry.row, carry.times_bar
        seeds = [tf.zeros_like(leaf) for leaf in y]
        if self._is_dense:
            row, times_bar, seeds, increment_bars = self._interpolation_bars(
                carry, y, increments
            )
            targets.append(increments)
            cotangents.append(increment_bars)
        y_bar, f_bar, times_step_bar, source_bars = tape.gradient(
            targets,
            [y, f, times if self._problem.times_vary else [], sources],
            output_gradients=cotangents,
            unconnected_gradients=tf.UnconnectedGradients.ZERO,
        )
        return _Carry(
            n=carry.n - 1,
            y_bar=clocks.add(y_bar, seeds),
            f_bar=f_bar,
            row=row,
            times_bar=times_bar + times_step_bar
            if self._problem.times_vary
            else (),
            source_bars=clocks.add(carry.source_bars, dense(source_bars)),
            store=store,
            num_evaluations=carry.num_evaluations
            + num_repeated
            + self._evaluations_per_step(),
        )

    def _restore(self, store, n):
        """Returns `(store, y, f, num_evaluations)` at the start of step `n`.

        Starts from the nearest kept state, and keeps others on the way.
        """
        start, leaves = checkpoint_store.nearest(store, n)

        def advance(m, last, leaves, store):
            t, dt = self._steps.at(m, self._times)
            y, f, _ = step.runge_kutta_step(
                self._tableau,
                self._problem.field,
                self._interval,
                t,
                dt,
                *self._split(leaves),
            )
            store, last = checkpoint_store.keep_on_return(
                store, last, m + 1, n, [*y, *f]
            )
            return m + 1, last, [*y, *f], store

        m, _, leaves, store = tf.while_loop(
            lambda m, *_: m < n,
            advance,
            (start, start, leaves, store),
            parallel_iterations=1,
            maximum_iterations=self._solver.max_num_steps,
        )
        num_evaluations = (m - start) * self._solver.evaluations_per_step()
        return store, *self._split(leaves), num_evaluations

    def _split(self, leaves):
        size = len(self._problem.y)
        return leaves[:size], leaves[size:]

    def _watched_times(self, tape):
        if not self._problem.times_vary:
            return self._times
        times = tf.identity(self._times)
        tape.watch(times)
        return times

    def _add_landing(self, carry):
        """Adds the cotangent of the requested time at the end of the step."""
        if not self._is_landing:
            return carry.y_bar
        row = self._steps.landing(carry.n)
        # The last one is in `y_bar` already; other steps may have none.
        last = tf.shape(self._times)[0] - 1
        lands = row < last
        row = tf.minimum(row, last)
        return [
            bar + tf.where(lands, cotangent[row], tf.zeros_like(bar))
            for bar, cotangent in zip(
                carry.y_bar, self._cotangents, strict=True
            )
        ]

    def _interpolation_bars(self, carry, y, increments):
        """Pulls back the outputs at requested times within the step."""
        zeros = [tf.zeros_like(leaf) for leaf in y]

        def lies_within(rows):
            numbers = clocks.rows_of(
                self._steps.output_steps, tf.maximum(rows, 0)
            )
            return (rows > 0) & tf.equal(numbers, carry.n)

        def pull_back(row, times_bar, y_bar, increment_bars):
            rows, within = dense_output.block(row, -1, lies_within)
            bars = self._interpolation_vjp(
                carry.n, tf.maximum(rows, 0), y, increments, within
            )
            return (
                row - tf.reduce_sum(tf.cast(within, tf.int32), axis=0),
                times_bar + bars[0] if self._problem.times_vary else (),
                clocks.add(y_bar, bars[1]),
                [
                    clocks.add(a, b)
                    for a, b in zip(increment_bars, bars[2], strict=True)
                ],
            )

        return tf.while_loop(
            lambda row, *_: tf.reduce_any(lies_within(row[None])),
            pull_back,
            (carry.row, carry.times_bar, zeros, [zeros] * len(increments)),
            parallel_iterations=1,
            maximum_iterations=tf.shape(self._times)[0],
        )

    def _interpolation_vjp(self, n, rows, y, increments, within):
        """Returns the cotangents of times, state and increments."""
        cotangents = [clocks.rows_of(leaf, rows) for leaf in self._cotangents]
        zeros = [tf.zeros_like(leaf) for leaf in cotangents]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            times = self._watched_times(tape)
            y, increments = tf.nest.map_structure(tf.identity, (y, increments))
            tape.watch([y, increments])
            t, dt = self._steps.at(n, times)
            length = tf.where(within, dt, 1.0)
            theta = (clocks.rows_of(times, rows) - t) / length
            states = step.interpolate(
                clocks.one_row(y),
                [clocks.one_row(k) for k in increments],
                step.dense_weights(self._tableau, theta),
            )
        return tape.gradient(
            states,
            [times if self._problem.times_vary else [], y, increments],
            output_gradients=clocks.select(within, cotangents, zeros),
            unconnected_gradients=tf.UnconnectedGradients.ZERO,
        )

    def _reverse_start(self, carry):
        """Pulls back the first evaluation, `f = ode_fn(t0, y0)`."""
        if not self._tableau.fsal:
            times_bar = carry.times_bar if self._problem.times_vary else None
            return carry.y_bar, times_bar, carry.source_bars
        sources = self._problem.field.local_sources()
        ode_fn = self._problem.field.at(sources)
        y = [tf.identity(leaf) for leaf in self._problem.y]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([y, sources])
            times = self._watched_times(tape)
            f = ode_fn(tf.cast(times[0], y[0].dtype), y)
        y_bar, times_bar, source_bars = tape.gradient(
            f,
            [y, times if self._problem.times_vary else [], sources],
            output_gradients=carry.f_bar,
            unconnected_gradients=tf.UnconnectedGradients.ZERO,
        )
        return (
            clocks.add(carry.y_bar, y_bar),
            carry.times_bar + times_bar if self._problem.times_vary else None,
            clocks.add(carry.source_bars, dense(source_bars)),
        )

    def _evaluations_per_step(self):
        count = self._solver.evaluations_per_step()
        return count + self._is_dense * self._tableau.num_dense_stages
