"""The cotangents of a solve's results, handed to the steps they came from."""

import tensorflow as tf

from keras_node.solvers import clocks, dense_output, dense_solution, step


class ResultCotangents:
    """What each step gets of the cotangents of the states and polynomials.

    Requested rows are ends of steps, or were interpolated within them.

    Args:
        problem: `Problem`.
        steps: `FixedSteps` or `AdaptiveSteps`, those that were taken.
        states: List of cotangents of `result.states`.
        polynomials: List of those of the coefficients of `result.dense`.
        is_dense: Whether rows within the solve were interpolated.
    """

    def __init__(self, problem, steps, states, polynomials, is_dense):
        self._problem = problem
        self._tableau = problem.solver.tableau
        self._times = problem.times
        self._steps = steps
        self._polynomials = polynomials
        self._has_interpolated = problem.has_rows_within and is_dense
        self._has_landed = problem.has_rows_within and not is_dense
        if self._has_landed:
            # A row that no step landed on is a copy of one that a step did.
            states = [
                tf.math.unsorted_segment_sum(
                    cotangent, steps.sources(), tf.shape(self._times)[0]
                )
                for cotangent in states
            ]
        self._states = states

    def at_start(self):
        """Returns those of the initial state, the first row."""
        return [cotangent[0] for cotangent in self._states]

    def at_end(self):
        """Returns those of the last state, also of rows that repeat it."""
        end = [cotangent[-1] for cotangent in self._states]
        if self._problem.events and self._has_interpolated:
            end = clocks.add(end, self._behind_the_end())
        return end

    def _behind_the_end(self):
        """Returns the sum of the cotangents of rows behind a terminal event."""
        is_within = self._steps.output_steps[1:-1] >= 0
        is_behind = self._steps.events.has_ended & ~is_within
        rows = [cotangent[1:-1] for cotangent in self._states]
        rows = clocks.zero_unless(is_behind, rows)
        return [tf.reduce_sum(row, axis=0) for row in rows]

    def last_row(self):
        """Returns the last requested time before the end that was reached."""
        if not self._has_interpolated:
            # XLA fails on a constant that one loop hands on to the next.
            return ()
        reached = self._steps.output_steps[1:-1] >= 0
        return tf.reduce_sum(tf.cast(reached, tf.int32), axis=0)

    def add_landing(self, n, y_bar):
        """Adds the cotangent of the requested time at the end of the step."""
        if not self._has_landed:
            return y_bar
        row = self._steps.landing(n)
        # The last one is in `y_bar` already; other steps may have none.
        last = tf.shape(self._times)[0] - 1
        lands = row < last
        row = tf.minimum(row, last)
        return [
            bar + tf.where(lands, cotangent[row], tf.zeros_like(bar))
            for bar, cotangent in zip(y_bar, self._states, strict=True)
        ]

    def pull_back(self, n, row, moment_bars, taken):
        """Pulls back the polynomials of a step, and what they interpolated.

        Args:
            n: Integer, the number of the step.
            row: The last requested row that no step behind this one has, per
                clock; see `last_row`.
            moment_bars: List of cotangents of the problem's `moments`.
            taken: What `TakenSteps` restored of the step.

        Returns:
            `row` and `moment_bars` for the step before; the cotangents of the
            state at the start of the step, or `[]`; and those of its
            increments, or `()`.
        """
        y_bar, increment_bars = [], ()
        if self._has_interpolated:
            row, moment_bars, y_bar, increment_bars = self._interpolation_bars(
                n, row, moment_bars, taken
            )
        if self._polynomials:
            zeros = [tf.zeros_like(leaf) for leaf in taken.y]
            y_bar, increment_bars = dense_solution.pull_back(
                self._tableau,
                self._polynomials_of(n, taken.dt),
                y_bar or zeros,
                increment_bars or [zeros] * len(taken.increments),
            )
        return row, moment_bars, y_bar, increment_bars

    def _polynomials_of(self, n, dt):
        """Returns the cotangents of a step's coefficients, powers first."""
        advances = tf.not_equal(dt, 0.0)
        bars = []
        for leaf in self._polynomials:
            constant, *powers = tf.unstack(leaf[n], num=leaf.shape[1])
            # A clock that did not advance has its state alone.
            powers = clocks.zero_unless(advances, powers)
            bars.append(tf.stack([constant, *powers]))
        return bars

    def _interpolation_bars(self, n, row, moment_bars, taken):
        """Pulls back the outputs at requested times within the step."""
        y, increments = taken.y, taken.increments
        zeros = [tf.zeros_like(leaf) for leaf in y]

        def lies_within(rows):
            numbers = clocks.rows_of(
                self._steps.output_steps, tf.maximum(rows, 0)
            )
            return (rows > 0) & tf.equal(numbers, n)

        def pull_back(row, moment_bars, y_bar, increment_bars):
            rows, within = dense_output.block(row, -1, lies_within)
            bars = self._interpolation_vjp(
                n, tf.maximum(rows, 0), y, increments, within
            )
            return (
                row - tf.reduce_sum(tf.cast(within, tf.int32), axis=0),
                clocks.add(moment_bars, bars[0]),
                clocks.add(y_bar, bars[1]),
                [
                    clocks.add(a, b)
                    for a, b in zip(increment_bars, bars[2], strict=True)
                ],
            )

        return tf.while_loop(
            lambda row, *_: tf.reduce_any(lies_within(row[None])),
            pull_back,
            (row, moment_bars, zeros, [zeros] * len(increments)),
            parallel_iterations=1,
            maximum_iterations=tf.shape(self._times)[0],
        )

    def _interpolation_vjp(self, n, rows, y, increments, within):
        """Returns the cotangents of moments, state and increments."""
        cotangents = [clocks.rows_of(leaf, rows) for leaf in self._states]
        zeros = [tf.zeros_like(leaf) for leaf in cotangents]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            moments = watched_moments(self._problem, tape)
            y, increments = tf.nest.map_structure(tf.identity, (y, increments))
            tape.watch([y, increments])
            t, dt = self._steps.at(n, *moments)
            length = tf.where(within, dt, 1.0)
            theta = (clocks.rows_of(moments[0], rows) - t) / length
            states = step.interpolate(
                clocks.one_row(y),
                [clocks.one_row(k) for k in increments],
                step.dense_weights(self._tableau, theta),
            )
        return tape.gradient(
            states,
            [moments if self._problem.times_vary else [], y, increments],
            output_gradients=clocks.select(within, cotangents, zeros),
            unconnected_gradients=tf.UnconnectedGradients.ZERO,
        )


def watched_moments(problem, tape):
    """Returns the `moments`, watched by a tape if the gradient needs them."""
    if not problem.times_vary:
        return problem.moments
    moments = [tf.identity(moment) for moment in problem.moments]
    tape.watch(moments)
    return moments
