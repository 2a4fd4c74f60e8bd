"""The backward solve of BacksolveAdjoint, from each time to the one before."""

import typing

import tensorflow as tf

from keras_node.adjoints.base import Gradients
from keras_node.dynamics.field_gradient import gradient_of
from keras_node.solvers import clocks, failures, solution, step_size_control


class _Carry(typing.NamedTuple):
    """The loop state, passed from each interval to the one before."""

    row: tf.Tensor
    a: list
    source_bars: list
    times_bar: typing.Any
    step_size: tf.Tensor
    num_attempts: tf.Tensor
    num_evaluations: tf.Tensor
    drift: tf.Tensor


class ReverseSolve:
    """The backward pass through one solve."""

    def __init__(self, problem, solver, result, cotangents):
        self._problem = problem
        self._solver = solver
        self._times = problem.times
        self._pieces = problem.pieces()
        self._is_adaptive = getattr(solver, "is_adaptive", False)
        # The NaN of a failed solve depends on nothing.
        is_valid = clocks.are_finite(result.states, problem.times.shape.rank)
        self._is_valid = is_valid
        self._states = clocks.zero_unless(is_valid, result.states)
        self._cotangents = clocks.zero_unless(is_valid, cotangents)
        self._gradient = gradient_of(problem.field, needs_time=False)
        self._shared = self._gradient.shared(
            tf.cast(self._times[0], problem.y[0].dtype), problem.y
        )

    def run(self):
        """Returns the `Gradients`."""
        vary = self._problem.times_vary
        last = tf.shape(self._times)[0] - 1
        a = [tf.zeros_like(leaf) for leaf in self._problem.y]
        sources = self._gradient.connected_zeros()
        first_step, num_evaluations = self._first_step(last, a, sources)
        carry = _Carry(
            row=last,
            a=a,
            source_bars=sources,
            times_bar=tf.zeros_like(self._times) if vary else (),
            step_size=first_step,
            num_attempts=tf.constant(0),
            num_evaluations=num_evaluations,
            drift=tf.zeros_like(self._times[0]),
        )
        carry = tf.while_loop(
            lambda carry: carry.row > 0,
            lambda carry: (self._reverse_interval(carry),),
            (carry,),
            parallel_iterations=1,
            maximum_iterations=last,
        )[0]
        moment_bars = None
        if vary:
            start = self._slope_product(tf.constant(0), carry.a)
            times_bar = self._add_to_row(0, carry.times_bar, -start)
            # Jumps have a row among the times.
            jumps = self._problem.moments[1:]
            moment_bars = [times_bar, *map(tf.zeros_like, jumps)]
        return Gradients(
            y=clocks.add(carry.a, [leaf[0] for leaf in self._cotangents]),
            moments=moment_bars,
            sources=self._gradient.all_sources(carry.source_bars),
            event_sources=[],
            num_evaluations=carry.num_evaluations,
            drift=clocks.largest(carry.drift),
        )

    def _drift(self, row, y):
        """Returns the distance of `y` to a row's state, over tolerances."""
        solver, state = self._solver, self._state(row)
        scale = step_size_control.error_scale(
            getattr(solver, "rtol", 1e-3),
            getattr(solver, "atol", 1e-6),
            state,
            state,
        )
        drift = self._problem.norm()(
            [(a - b) / s for a, b, s in zip(y, state, scale, strict=True)]
        )
        drift = tf.where(tf.math.is_finite(drift), drift, drift.dtype.max)
        # For a failed clock the backward pass has no end to start from.
        is_valid = self._is_valid[row] & self._is_valid[row + 1]
        return tf.where(is_valid, drift, 0.0)

    def _first_step(self, row, a, sources):
        """Chooses the step size of the whole backward pass, once."""
        if not self._is_adaptive:
            return tf.zeros([], tf.float64), tf.constant(0)
        jump = [leaf[row] for leaf in self._cotangents]
        leaves = [*self._state(row), *clocks.add(a, jump), *sources]
        ode_fn, elapsed = self._augmented(row)
        step_size = self._solver.choose_first_step(
            ode_fn, elapsed, leaves, self._norm()
        )
        # An interval of length 0 says nothing about the others.
        span = clocks.largest(tf.abs(self._times[-1] - self._times[0]))
        return tf.where(step_size > 0, step_size, span), tf.constant(2)

    def _norm(self):
        """Returns the seminorm: the error of state and adjoint alone."""
        size, count = len(self._problem.y), self._problem.num_controlled
        is_shared = self._times.shape.rank == 1

        def norm(leaves):
            y, a = leaves[:size], leaves[size : 2 * size]
            controlled = [*y[:count], *a[:count]]
            if is_shared:
                return clocks.rms(controlled, 0)
            return clocks.max_rms(controlled)

        return norm

    def _state(self, row):
        return [leaf[row] for leaf in self._states]

    def _augmented(self, row):
        """Returns the augmented dynamics of an interval, and its times.

        Their time is that elapsed since the interval's end, in the clock with
        the longest interval.
        """
        late, early = self._times[row], self._times[row - 1]
        longest = clocks.largest(tf.abs(early - late))
        # Requested times may be equal: then nothing moves between them.
        rate = tf.math.divide_no_nan(early - late, longest)
        size = len(self._problem.y)

        def ode_fn(elapsed, leaves):
            y, a = leaves[:size], leaves[size : 2 * size]
            t = late + rate * tf.cast(elapsed, tf.float64)
            # Rounding must not take `t` out of the interval.
            t = tf.clip_by_value(
                t, tf.minimum(early, late), tf.maximum(early, late)
            )
            if self._pieces.has_jumps:
                t = tf.clip_by_value(t, *self._pieces.at(early).interval)
            f, kept = self._gradient.evaluate(tf.cast(t, y[0].dtype), y)
            found = self._gradient.pull_back(
                kept, self._shared, clocks.scale(-rate, a)
            )
            return [*clocks.scale(rate, f), *found.leaves, *found.sources]

        return ode_fn, tf.stack([tf.zeros_like(longest), longest])

    def _reverse_interval(self, carry):
        row, size = carry.row, len(self._problem.y)
        jump = [leaf[row] for leaf in self._cotangents]
        times_bar = carry.times_bar
        if self._problem.times_vary:
            slope = self._slope_product_before(row, carry.a, jump)
            times_bar = self._add_to_row(row, times_bar, slope)
        ode_fn, elapsed = self._augmented(row)
        leaves = [
            *self._state(row),
            *clocks.add(carry.a, jump),
            *carry.source_bars,
        ]
        options = {}
        if self._is_adaptive:
            options = {
                "norm": self._norm(),
                "first_step_size": carry.step_size,
            }
        result = self._solver.integrate(ode_fn, elapsed, leaves, **options)
        result, num_attempts = self._within_budget(carry, result)
        states = result.states
        if self._problem.raises:
            states = failures.check(self._solver, result, is_backward=True)
        end = [leaf[-1] for leaf in states]
        num_evaluations = result.diagnostics.num_ode_fn_evaluations
        return _Carry(
            row=row - 1,
            a=end[size : 2 * size],
            source_bars=end[2 * size :],
            times_bar=times_bar,
            step_size=result.internal.step_size,
            num_attempts=num_attempts,
            num_evaluations=carry.num_evaluations + num_evaluations,
            drift=tf.maximum(carry.drift, self._drift(row - 1, end[:size])),
        )

    def _within_budget(self, carry, result):
        """Fails a result if the whole pass exceeds `max_num_steps`."""
        counts = result.diagnostics
        attempts = counts.num_accepted_steps + counts.num_rejected_steps
        # tfp's solvers do not count: they report -1.
        attempts = carry.num_attempts + tf.maximum(attempts, 0)
        limit = getattr(self._solver, "max_num_steps", None) or tf.int32.max
        is_over = (attempts >= limit) & (carry.row > 1)
        status = tf.where(is_over, failures.MAX_NUM_STEPS, counts.status)
        states = solution.nan_unless(~is_over, result.states)
        result = result._replace(
            states=states, diagnostics=counts._replace(status=status)
        )
        return result, attempts

    def _slope_product_before(self, row, a, jump):
        """Returns the cotangent of a row's time.

        With `f` before the row and `f1` behind it, that is `(a + jump) . f`
        for the end of one interval less `a . f1` for the start of another.
        """
        if not self._pieces.has_jumps:
            return self._slope_product(row, jump)
        t, last = self._times[row], tf.shape(self._times)[0] - 1
        before = self._pieces.at(self._times[row - 1])
        before = tf.clip_by_value(t, *before.interval)
        end = self._slope_product(row, clocks.add(a, jump), before)
        start = self._slope_product(row, a)
        return end - tf.where(row < last, start, 0.0)

    def _slope_product(self, row, cotangents, t=None):
        """Returns `cotangent . f(t, y_row)`, for each clock.

        The time is that of the row, or the first behind it if it is a jump.
        """
        y = self._state(row)
        if t is None:
            t = self._times[row]
            if self._pieces.has_jumps:
                t = tf.clip_by_value(t, *self._pieces.at(t).interval)
        f = self._problem.field(tf.cast(t, y[0].dtype), y)
        total = tf.zeros_like(t)
        for slope, cotangent in zip(f, cotangents, strict=True):
            axes = list(range(t.shape.rank, slope.shape.rank))
            product = tf.reduce_sum(slope * cotangent, axis=axes)
            total += tf.cast(product, tf.float64)
        return total

    def _add_to_row(self, row, times_bar, values):
        is_row = tf.equal(tf.range(tf.shape(times_bar)[0]), row)
        is_row = tf.reshape(is_row, [-1] + [1] * values.shape.rank)
        return times_bar + tf.where(is_row, values, tf.zeros_like(values))
