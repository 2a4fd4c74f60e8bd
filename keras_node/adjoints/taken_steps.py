"""The steps of a solve, read or taken again for the backward pass."""

import typing

import tensorflow as tf

from keras_node.adjoints import bounded_state_store
from keras_node.adjoints.step_gradient import Evaluations
from keras_node.solvers import clocks, landing, step


class TakenStep(typing.NamedTuple):
    """A step that was taken.

    Attributes:
        t: Float64 per clock, where it starts.
        dt: Float64 per clock; 0 in those that did not advance.
        y, f: Lists of leaves, state and derivative at its start; `[]` where
            nothing needs them.
        y1: List of leaves, the state at its end, before an event there; as
            above.
        increments: List of leaves for each stage, as above.
        evaluations: `Evaluations`, those of its stages.
        store: `Store` of states, after the step was found.
        num_evaluations: Integer, how often the dynamics are evaluated for the
            gradient.
    """

    t: tf.Tensor
    dt: tf.Tensor
    y: list
    f: list
    y1: list
    increments: list
    evaluations: Evaluations
    store: bounded_state_store.Store
    num_evaluations: typing.Any


class TakenSteps:
    """The accepted steps of a solve, with what their gradients need.

    Args:
        problem: `Problem`.
        result: `Solution`, with the record of `recorder`.
        recorder: `CheckpointRecorder`.
        gradient: `FieldGradient`; what was kept is for the recorder's own.

    Attributes:
        store: The `Store` of states after the solve; `()` if there is none.
        num_repeated: Integer, evaluations of the forward pass that only the
            gradient needs.
    """

    def __init__(self, problem, result, recorder, gradient):
        self._problem = problem
        self._solver = problem.solver
        self._tableau = problem.solver.tableau
        self._times = problem.times
        self._pieces = problem.pieces(result.steps)
        self._steps = result.steps
        self._record = result.record
        self._recorder = recorder
        self._gradient = gradient
        self._has_log = recorder.log and gradient is recorder.gradient
        self._has_dense_stages = (
            recorder.is_dense and self._tableau.num_dense_stages
        )
        self.store = result.record.store
        if self._recorder.keeps_states and tf.executing_eagerly():
            # The same steps may be reversed again.
            self.store = bounded_state_store.copy(self.store)
        self.num_repeated = result.record.num_repeated if self._has_log else 0

    def passes(self):
        """Returns pairs `(first, restore)` that lead from the end to the start.

        The steps from number `first` on are found by `restore(n, store)`, which
        returns a `TakenStep`.
        """
        passes = []
        if self._recorder.keeps_states:
            num_kept = self._record.log.window if self._has_log else 0
            passes.append((num_kept, self._take_again))
        if self._has_log:
            passes.append((0, self._read))
        return passes

    def first_kept(self):
        """Returns what the first evaluation kept, and how many it takes."""
        if self._has_log:
            (kept,) = self._recorder.read_first(self._record).kept
            return kept, self._gradient.num_evaluations
        y = self._problem.y
        start = self._pieces.first(self._times)
        _, kept = self._gradient.evaluate(tf.cast(start, y[0].dtype), y)
        return kept, 1 + self._gradient.num_evaluations

    def _read(self, n, store):
        """Returns step `n` as it was recorded."""
        t, dt = self._steps.values_at(n, self._times)
        evaluations, leaves = self._recorder.read(self._record, n)
        y, f = self._split(leaves)
        slopes = evaluations.derivatives
        if f:
            slopes = [f, *slopes]
        increments = [clocks.scale(dt, slope) for slope in slopes]
        y1 = []
        if self._problem.events is not None:
            y1 = step.weighted_sum(y, increments, self._tableau.b)
        return self._with_dense_stages(
            TakenStep(t, dt, y, f, y1, increments, evaluations, store, 0)
        )

    def _take_again(self, n, store):
        """Returns step `n`, from the nearest state that was kept."""
        store, y, f, num_repeated = self._restore(store, n)
        t, dt = self._steps.values_at(n, self._times)
        evaluations = Evaluations(self._gradient)
        y1, f1, increments = self._step(evaluations, t, dt, y, f)
        _, _, count = self._behind(evaluations, t, dt, y1, f1)
        count += num_repeated + self._solver.evaluations_per_step()
        return self._with_dense_stages(
            TakenStep(t, dt, y, f, y1, increments, evaluations, store, count)
        )

    def _step(self, evaluator, t, dt, y, f):
        """Returns `(y1, f1, increments)` of a step."""
        interval = self._pieces.at(t).interval
        return self._solver.step(evaluator, interval, t, dt, y, f)

    def _behind(self, evaluator, t, dt, y, f):
        """Returns state and derivative behind a step, and the NFE for them.

        They are others than at its end where that is an event or a jump.
        """
        pieces, events = self._pieces, self._problem.events
        count = 0
        if events is not None:
            reached = self._steps.events.reached(pieces, t, dt)
            y, _ = landing.cross(self._problem.field, events, reached, y)
            happens = tf.cast(tf.reduce_any(reached.is_row), tf.int32)
            count += landing.num_evaluations(events) * happens
        f = pieces.restart(self._tableau, evaluator, t, dt, y, f)
        if pieces.has_jumps and self._tableau.fsal:
            lands = pieces.lands_on_jump(t, dt)
            count += tf.cast(tf.reduce_any(lands), tf.int32)
        return y, f, count

    def _with_dense_stages(self, taken):
        """Adds the stages that only dense output needs, and counts them."""
        count, increments = taken.num_evaluations, taken.increments
        if self._has_dense_stages:
            count += self._tableau.num_dense_stages
            increments = step.dense_increments(
                self._tableau,
                taken.evaluations,
                self._pieces.at(taken.t).interval,
                taken.t,
                taken.dt,
                taken.y,
                increments,
            )
        count += self._gradient.num_evaluations * len(taken.evaluations.kept)
        return taken._replace(increments=increments, num_evaluations=count)

    def _restore(self, store, n):
        """Returns `(store, y, f, num_evaluations)` at the start of step `n`.

        Starts from the nearest kept state, and keeps others on the way.
        """
        first = self._recorder.first_stored(self._record)
        target = n - first
        start, leaves = bounded_state_store.nearest(store, target)

        evaluator = step.Evaluator(self._problem.field)

        def advance(m, last, leaves, store, num_evaluations):
            t, dt = self._steps.values_at(first + m, self._times)
            y, f, _ = self._step(evaluator, t, dt, *self._split(leaves))
            y, f, count = self._behind(evaluator, t, dt, y, f)
            count += self._solver.evaluations_per_step()
            store, last = bounded_state_store.keep_on_return(
                store, last, m + 1, target, [*y, *f]
            )
            return m + 1, last, [*y, *f], store, num_evaluations + count

        _, _, leaves, store, num_evaluations = tf.while_loop(
            lambda m, *_: m < target,
            advance,
            (start, start, leaves, store, tf.constant(0)),
            parallel_iterations=1,
            maximum_iterations=self._solver.max_num_steps,
        )
        return store, *self._split(leaves), num_evaluations

    def _split(self, leaves):
        size = len(self._problem.y)
        return leaves[:size], leaves[size:]
