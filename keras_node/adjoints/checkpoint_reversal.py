"""The backward pass of CheckpointAdjoint: step by step, last first."""

import typing

import tensorflow as tf

from keras_node.adjoints import bounded_state_store
from keras_node.adjoints.base import Gradients
from keras_node.adjoints.result_cotangents import (
    ResultCotangents,
    watched_moments,
)
from keras_node.adjoints.step_gradient import StepGradient
from keras_node.adjoints.taken_steps import TakenSteps
from keras_node.adjoints.taped_step_gradient import TapedStepGradient
from keras_node.solvers import clocks, landing


class _Carry(typing.NamedTuple):
    """The loop state, passed from each step to the one before."""

    n: tf.Tensor
    y_bar: list
    f_bar: list
    row: typing.Any
    moment_bars: list
    source_bars: list
    event_source_bars: list
    store: bounded_state_store.Store
    num_evaluations: tf.Tensor


class Reversal:
    """The backward pass through one solve.

    Args:
        problem: `Problem`.
        result: `Solution`, with the record of `recorder`.
        cotangents: List of those of `result.states`, of the coefficients of
            `result.dense`, and of the times of `result.events`.
        recorder: `CheckpointRecorder`.
    """

    def __init__(self, problem, result, cotangents, recorder):
        self._problem = problem
        self._solver = problem.solver
        self._tableau = problem.solver.tableau
        self._times = problem.times
        self._moments = problem.moments
        self._pieces = problem.pieces(result.steps)
        self._steps = result.steps
        self._status = result.diagnostics.status
        size = len(problem.y)
        states, polynomials = cotangents[:size], cotangents[size:]
        self._event_bars = polynomials.pop() if problem.events else None
        self._results = ResultCotangents(
            problem, result.steps, states, polynomials, recorder.is_dense
        )
        self._gradient = recorder.gradient
        if self._gradient.field is not problem.field:
            # The rest of the sources, of which nothing was kept.
            self._gradient = problem.gradient_of(problem.field)
        self._taken = TakenSteps(problem, result, recorder, self._gradient)
        self._shared = self._gradient.shared(
            tf.cast(self._times[0], problem.y[0].dtype), problem.y
        )
        self._step_gradient = self._make_step_gradient()

    def _make_step_gradient(self):
        vary = self._problem.times_vary
        if self._solver.needs_jacobian:
            return TapedStepGradient(
                self._solver, self._problem.field, self._pieces, vary
            )
        return StepGradient(self._tableau, self._gradient, self._shared, vary)

    def run(self):
        """Returns the `Gradients`."""
        carry = self._start()
        for first, restore in self._taken.passes():
            carry = self._run_to(first, restore, carry)
        y_bar, moment_bars, source_bars, num_evaluations = self._reverse_start(
            carry
        )
        return Gradients(
            y=clocks.add(y_bar, self._results.at_start()),
            moments=moment_bars,
            sources=self._gradient.all_sources(source_bars),
            event_sources=carry.event_source_bars,
            num_evaluations=num_evaluations,
        )

    def _run_to(self, first, restore, carry):
        """Reverses the steps down to number `first`."""
        return tf.while_loop(
            lambda carry: carry.n >= first,
            lambda carry: (self._reverse_step(carry, restore),),
            (carry,),
            # More than 1 would keep the activations of several steps alive.
            parallel_iterations=1,
            maximum_iterations=self._solver.max_num_steps,
        )[0]

    def _start(self):
        # The result of a failed solve is NaN, and depends on nothing.
        succeeded = tf.equal(self._status, 0)
        y_bar = clocks.zero_unless(succeeded, self._results.at_end())
        num_steps = tf.minimum(
            self._steps.num_steps, self._solver.max_num_steps
        )
        vary = self._problem.times_vary
        return _Carry(
            n=num_steps - 1,
            y_bar=y_bar,
            f_bar=[tf.zeros_like(leaf) for leaf in y_bar]
            if self._tableau.fsal
            else [],
            row=self._results.last_row(),
            moment_bars=[tf.zeros_like(m) for m in self._moments if vary],
            source_bars=self._gradient.connected_zeros(),
            event_source_bars=[
                tf.zeros_like(source) for source in self._problem.event_sources
            ],
            store=self._taken.store,
            num_evaluations=tf.convert_to_tensor(self._taken.num_repeated),
        )

    def _reverse_step(self, carry, restore):
        y_bar = self._results.add_landing(carry.n, carry.y_bar)
        taken = restore(carry.n, carry.store)
        row, moment_bars, seeds, increment_bars = self._results.pull_back(
            carry.n, carry.row, carry.moment_bars, taken
        )
        y_bar, f_bar, t1_bar, source_bars = self._reverse_restart(
            carry, taken, y_bar
        )
        event_source_bars = carry.event_source_bars
        num_evaluations = taken.num_evaluations
        if self._problem.events:
            y_bar, t_bar, more, event_source_bars, count = self._reverse_events(
                carry, taken, y_bar
            )
            t1_bar += t_bar
            source_bars = clocks.add(source_bars, more)
            num_evaluations += count
        found = self._step_gradient.pull_back(
            taken, y_bar, f_bar, increment_bars
        )
        if self._problem.times_vary:
            bars = [found.t + t1_bar, found.dt + t1_bar]
            moment_bars = clocks.add(
                moment_bars, self._pull_back_moments(carry.n, bars)
            )
        return _Carry(
            n=carry.n - 1,
            y_bar=clocks.add(found.y, seeds) if seeds else found.y,
            f_bar=found.f,
            row=row,
            moment_bars=moment_bars,
            source_bars=clocks.add(source_bars, found.sources),
            event_source_bars=event_source_bars,
            store=taken.store,
            num_evaluations=carry.num_evaluations + num_evaluations,
        )

    def _reverse_restart(self, carry, taken, y_bar):
        """Pulls back the derivative that was taken anew behind a jump.

        Returns:
            Cotangents of the state at the end of the step, of its derivative
            there, of the time there, and of the sources.
        """
        if not self._pieces.has_jumps or not self._tableau.fsal:
            return y_bar, carry.f_bar, 0.0, carry.source_bars
        t, dt = self._steps.values_at(carry.n, self._times)
        lands = self._pieces.lands_on_jump(t, dt)
        behind_bar = clocks.zero_unless(lands, carry.f_bar)

        def pull_back():
            found = self._gradient.pull_back(
                taken.evaluations.kept_behind, self._shared, behind_bar
            )
            t_bar = tf.zeros_like(t)
            if found.t is not None:
                t_bar += tf.cast(found.t, t.dtype)
            return found.leaves, t_bar, found.sources

        def skip():
            zeros = [tf.zeros_like(leaf) for leaf in y_bar]
            nothing = [tf.zeros_like(bar) for bar in carry.source_bars]
            return zeros, tf.zeros_like(t), nothing

        leaves, t_bar, sources = tf.cond(tf.reduce_any(lands), pull_back, skip)
        return (
            clocks.add(y_bar, leaves),
            clocks.zero_unless(~lands, carry.f_bar),
            t_bar,
            clocks.add(carry.source_bars, sources),
        )

    def _reverse_events(self, carry, taken, y_bar):
        """Pulls back the events at the end of a step, see `landing.land`.

        Returns:
            Cotangents of the state at the end of the step, of the time there,
            of the connected sources of the dynamics, to be added, and of those
            of the events; and the number of evaluations.
        """
        reached = self._steps.events.reached(
            self._pieces, *self._steps.values_at(carry.n, self._times)
        )
        time_bar = tf.where(reached.is_row, self._event_bars, 0.0)
        time_bar = tf.reduce_sum(time_bar, axis=0)

        def pull_back():
            bars = self._landing_vjp(reached, taken.y1, time_bar, y_bar)
            t_bar, leaves, sources, event_sources = bars
            connected = zip(sources, self._gradient.is_connected, strict=True)
            return (
                leaves,
                t_bar,
                [bar for bar, is_connected in connected if is_connected],
                clocks.add(carry.event_source_bars, event_sources),
                landing.num_evaluations(self._problem.events),
            )

        def skip():
            nothing = [tf.zeros_like(bar) for bar in carry.source_bars]
            no_time = tf.zeros_like(time_bar)
            return y_bar, no_time, nothing, carry.event_source_bars, 0

        return tf.cond(tf.reduce_any(reached.is_row), pull_back, skip)

    def _landing_vjp(self, reached, y, time_bar, y_bar):
        """Returns the cotangents of time, state, and of the two sources."""
        t, *y = map(tf.identity, [reached.t, *y])
        field, sources = self._problem.field.with_copies()
        events, event_sources = self._problem.events.with_copies()
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([t, y, sources, event_sources])
            landed = landing.land(field, events, reached._replace(t=t), y)
        bars = tape.gradient(
            [landed.time, *landed.y],
            [t, y, sources, event_sources],
            output_gradients=[time_bar, *y_bar],
            unconnected_gradients=tf.UnconnectedGradients.ZERO,
        )
        return tf.nest.map_structure(tf.convert_to_tensor, bars)

    def _pull_back_moments(self, n, bars):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            moments = watched_moments(self._problem, tape)
            step_times = self._steps.at(n, *moments)
        return tape.gradient(
            step_times,
            moments,
            bars,
            unconnected_gradients=tf.UnconnectedGradients.ZERO,
        )

    def _reverse_start(self, carry):
        """Pulls back the first evaluation, `f = ode_fn(t0, y0)`."""
        moment_bars = carry.moment_bars or None
        if not self._tableau.fsal:
            return (
                carry.y_bar,
                moment_bars,
                carry.source_bars,
                carry.num_evaluations,
            )
        kept, num_evaluations = self._taken.first_kept()
        found = self._gradient.pull_back(kept, self._shared, carry.f_bar)
        if moment_bars and found.t is not None:
            times_bar, *others = moment_bars
            bars = tf.cast(found.t, times_bar.dtype)
            bars = tf.concat([bars[None], tf.zeros_like(times_bar[1:])], axis=0)
            moment_bars = [times_bar + bars, *others]
        return (
            clocks.add(carry.y_bar, found.leaves),
            moment_bars,
            clocks.add(carry.source_bars, found.sources),
            carry.num_evaluations + num_evaluations,
        )
