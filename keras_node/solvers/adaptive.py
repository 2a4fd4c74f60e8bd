"""The adaptive loop: steps as long as the error allows."""

import typing

import tensorflow as tf

from keras_node.common.state import as_float64
from keras_node.solvers import (
    clocks,
    dense_output,
    dense_solution,
    event_detection,
    failures,
    solution,
    step,
    step_size_control,
)
from keras_node.solvers.first_step_size import first_step
from keras_node.solvers.pieces import Pieces
from keras_node.solvers.trial import try_step

# A step below this fraction of the time no longer moves the clock. Near 0 it is
# that of the time requested first: dynamics that are fast at first may become
# slower by eleven orders of magnitude (Robertson's).
_RESOLUTION = 1e-15

# A step with less than this fraction of the error allowed is at rest.
_NO_ERROR = 1e-3


class _Carry(typing.NamedTuple):
    """The loop state, passed from each attempt to the next; most per clock."""

    t: tf.Tensor
    y: list
    f: list
    h: tf.Tensor
    ratio: tf.Tensor
    status: tf.Tensor
    num_attempts: tf.Tensor
    num_accepted: tf.Tensor
    num_evaluations: tf.Tensor
    outputs: typing.Any
    dense: typing.Any
    record: typing.Any
    events: typing.Any


class AdaptiveLoop:
    """Integrates through `times` with error control.

    Args:
        solver: `OneStepSolver` with an error estimate.
        ode_fn: Callable `(t, leaves) -> leaves`.
        times: Float64 `(T,)` or `(T, batch)`, at least two times.
        norm: Callable from leaves, errors over their scale, to float64 per
            clock.
        recorder: `StepRecorder` or another of its kind, or `None`.
        jumps: Jumps of the dynamics, as `pieces.sorted_jumps` returns them;
            `None` (default) for none.
        keeps_dense: Whether to keep the `DenseSolution`. Default `False`.
        events: `TracedEvents`, or `None` (default). With them there are
            jumps, and a clock for each sample.
    """

    def __init__(
        self,
        solver,
        ode_fn,
        times,
        norm,
        recorder,
        jumps=None,
        keeps_dense=False,
        events=None,
    ):
        self._solver = solver
        self._tableau = solver.tableau
        self._ode_fn = ode_fn
        self._times = times
        self._norm = norm
        self._recorder = recorder
        self._jumps = jumps
        self._end = times[-1]
        self._direction = tf.sign(times[-1] - times[0])
        sizes = tf.abs(times)
        sizes = tf.where(sizes > 0.0, sizes, sizes[-1])
        self._first_time = tf.reduce_min(sizes, axis=0)
        self._has_rows = dense_output.has_rows_within(times)
        self._dense = None
        if keeps_dense:
            self._dense = dense_solution.Recorder(
                solver.tableau, solver.max_num_steps
            )
        self._events = events

    def run(self, y, first_step_size=None):
        """Solves from `(times[0], y)`; returns a `Solution`."""
        start, longest = self._start(y, first_step_size)
        carry = tf.while_loop(
            lambda carry: tf.reduce_any(self._is_active(carry)),
            lambda carry: (self._attempt(carry, longest),),
            (start,),
            parallel_iterations=1,
            maximum_iterations=self._solver.max_num_steps,
        )[0]
        return self._finish(y, carry)

    def _start(self, y, first_step_size):
        """Returns the first carry, and the longest step of each clock."""
        t = self._times[0]
        self._search = self._make_search(y[0].dtype)
        piece = self._pieces.at(t)
        ode_fn = self._evaluator()
        f = ode_fn(tf.cast(piece.first, y[0].dtype), y)
        ones = tf.ones_like(t)
        zeros = tf.zeros_like(t, tf.int32)
        num_evaluations = zeros + 1
        if first_step_size is None:
            h, longest = first_step(
                self._within(piece),
                t,
                y,
                f,
                self._end,
                self._solver,
                self._norm,
            )
            num_evaluations += 1
        else:
            h = ones * as_float64(first_step_size)
            longest = ones * tf.float64.max
        events = self._search.start(t, y, f, h)
        start_is_finite = clocks.are_finite([*y, *f], t.shape.rank)
        if not self._tableau.fsal:
            f = []  # Each step evaluates its own.
        carry = _Carry(
            t=t,
            y=y,
            f=f,
            h=h,
            ratio=ones,
            status=tf.where(start_is_finite, zeros, failures.NON_FINITE),
            num_attempts=zeros,
            num_accepted=zeros,
            num_evaluations=num_evaluations,
            outputs=(
                dense_output.start(self._times, y) if self._has_rows else ()
            ),
            dense=self._dense.start(t, y) if self._dense else (),
            record=(
                self._recorder.start(t, y, f, ode_fn) if self._recorder else ()
            ),
            events=events,
        )
        return carry, longest

    def _make_search(self, dtype):
        where = self._times, self._jumps, dtype
        self._pieces = Pieces(*where)
        if self._events is None:
            return event_detection.NoEvents(self._pieces)
        return event_detection.EventDetector(
            self._events, self._tableau, self._ode_fn, *where
        )

    def _evaluator(self):
        """Returns the dynamics for one step, such that they are recorded."""
        if not self._recorder:
            return step.Evaluator(self._ode_fn)
        return self._recorder.evaluator(self._ode_fn)

    def _within(self, piece):
        """Returns the dynamics of one piece, continued beyond its ends."""
        if not self._pieces.has_jumps:
            return self._ode_fn
        return lambda t, y: self._ode_fn(
            tf.cast(
                tf.clip_by_value(tf.cast(t, tf.float64), *piece.interval),
                t.dtype,
            ),
            y,
        )

    def _is_active(self, carry):
        succeeds = tf.equal(carry.status, failures.SUCCESS)
        is_active = succeeds & tf.not_equal(carry.t, self._end)
        return self._search.active(is_active, carry.events)

    def _attempt(self, carry, longest):
        """Tries one step in every clock that is not done."""
        trial, events, num_looks = self._search.look(
            carry.events, *self._try_step(carry)
        )
        h, status = self._control(carry, trial, longest)
        outputs, dense, num_dense = self._write(carry, trial)
        num_evaluations = self._solver.evaluations_per_step()
        active = tf.cast(trial.active, tf.int32)
        t = tf.where(trial.accepted, trial.t1, carry.t)
        y = clocks.select(trial.accepted, trial.y1, carry.y)
        f = clocks.select(trial.accepted, trial.f1, carry.f)
        events, y, status, num_landed = self._search.land(
            carry.events, events, trial, t, y, status
        )
        f, num_restarts = self._restart(trial, t, y, f)
        return _Carry(
            t=t,
            y=y,
            f=f,
            h=h,
            ratio=tf.where(trial.accepted, trial.ratio, carry.ratio),
            status=status,
            num_attempts=carry.num_attempts + active,
            num_accepted=carry.num_accepted + tf.cast(trial.accepted, tf.int32),
            num_evaluations=carry.num_evaluations
            + active * num_evaluations
            + num_looks
            + num_dense
            + num_landed
            + num_restarts,
            outputs=outputs,
            dense=dense,
            record=self._record(carry, trial),
            events=events,
        )

    def _try_step(self, carry):
        # With one clock the loop's condition is that it is active.
        has_one_clock = carry.t.shape.rank == 0
        active = tf.constant(True) if has_one_clock else self._is_active(carry)
        found = try_step(
            self._solver,
            self._evaluator(),
            self._search.pieces(carry.events),
            self._direction,
            self._norm,
            carry,
            active,
        )
        return found, self._span(carry, found)

    def _restart(self, trial, t, y, f):
        """Takes the derivative anew behind a jump; returns it and the NFE."""
        if not self._pieces.has_jumps or not self._tableau.fsal:
            return f, 0
        lands = trial.accepted & trial.lands & trial.piece.ends_at_jump
        behind = tf.cast(trial.pieces.at(t).first, y[0].dtype)
        f = trial.evaluated.behind_jumps(lands, behind, y, f)
        return f, tf.cast(lands, tf.int32)

    def _span(self, carry, trial):
        return dense_output.Span(
            accepted=trial.accepted,
            number=carry.record.num_steps if self._recorder else 0,
            t=carry.t,
            t1=trial.t1,
            dt=trial.dt,
            y=carry.y,
            increments=trial.increments,
        )

    def _control(self, carry, trial, longest):
        """Returns the next step size and the status of each clock."""
        factor = step_size_control.step_size_factor(
            trial.ratio, carry.ratio, self._solver
        )
        h = tf.abs(trial.dt) * factor
        # One cut short at an end says nothing against a longer one.
        h = tf.where(trial.accepted & trial.lands, tf.maximum(h, carry.h), h)
        h = tf.where(trial.ratio < _NO_ERROR, tf.minimum(h, longest), h)
        counts = trial.active
        if trial.is_cut is not None:
            counts &= ~trial.is_cut
        h = tf.where(counts, h, carry.h)
        resolution = _RESOLUTION * tf.maximum(tf.abs(carry.t), self._first_time)
        is_stuck = counts & ~trial.accepted & (h <= resolution)
        reason = tf.where(
            tf.math.is_finite(trial.ratio),
            failures.UNDERFLOW,
            failures.NON_FINITE,
        )
        return h, tf.where(is_stuck, reason, carry.status)

    def _write(self, carry, trial):
        """Returns outputs, polynomials, and the evaluations that they took."""
        if not self._has_rows and not self._dense:
            return (), (), 0
        span = self._span(carry, trial)
        method = self._tableau, self._ode_fn, trial.piece.interval
        outputs = dense = ()
        num_evaluations = num_more = 0
        if self._dense:
            increments, num_evaluations = dense_output.all_increments(
                *method, span, span.accepted
            )
            span = span._replace(increments=increments)
            dense = self._dense.record(
                carry.dense,
                span.accepted,
                span.t,
                span.dt,
                span.y,
                increments,
            )
        if self._has_rows:
            outputs, num_more = dense_output.write(
                *method, self._times, span, carry.outputs
            )
        return outputs, dense, num_evaluations + num_more

    def _record(self, carry, trial):
        if not self._recorder:
            return ()
        dt = trial.dt
        if trial.is_cut is not None:
            # It has not failed: what it computed is finite.
            dt = tf.where(~trial.is_cut, dt, 0.0)
        return self._recorder.record(
            carry.record,
            trial.accepted,
            carry.t,
            dt,
            carry.y,
            carry.f,
            trial.evaluated,
        )

    def _finish(self, y, carry):
        status = tf.where(
            self._is_active(carry), failures.MAX_NUM_STEPS, carry.status
        )
        is_finite = clocks.are_finite(carry.y, carry.t.shape.rank)
        succeeded = tf.equal(status, failures.SUCCESS)
        status = tf.where(succeeded & ~is_finite, failures.NON_FINITE, status)
        output_steps = None
        events = self._search.record(carry.events)
        if self._has_rows:
            states, output_steps = dense_output.finish(
                carry.outputs,
                succeeded,
                carry.y,
                events and events.has_ended,
            )
        else:
            end = solution.nan_unless(succeeded, carry.y)
            states = [tf.stack(pair) for pair in zip(y, end, strict=True)]
        steps = None
        if self._recorder:
            steps = self._recorder.steps(carry.record, output_steps)
        if steps is not None and events is not None:
            steps = steps._replace(events=events)
        return solution.Solution(
            states=states,
            diagnostics=self._solver.diagnostics(
                num_ode_fn_evaluations=carry.num_evaluations,
                num_accepted_steps=carry.num_accepted,
                num_rejected_steps=carry.num_attempts - carry.num_accepted,
                status=status,
            ),
            internal=solution.InternalState(carry.t, carry.h),
            steps=steps,
            record=carry.record,
            dense=self._dense.solution(carry.dense) if self._dense else None,
            events=events,
        )
