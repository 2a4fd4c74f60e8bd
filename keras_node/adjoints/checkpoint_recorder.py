"""The recorder of CheckpointAdjoint: steps, states and activations."""

import typing

import tensorflow as tf

from keras_node.adjoints import bounded_state_store
from keras_node.adjoints.activation_memory import EvaluationLog, Log
from keras_node.adjoints.step_gradient import Evaluations
from keras_node.solvers.step_sequence import StepRecorder


class CheckpointRecorder(StepRecorder):
    """Keeps a bounded number of states and of evaluations besides the steps.

    Args:
        problem: `Problem`.
        max_checkpoints: Integer, the most states to keep.
        memory_limit: Integer, the most bytes of evaluations to keep.

    Attributes:
        gradient: `FieldGradient` of the first part of the problem's field.
        log: `EvaluationLog`, or `None` if no evaluation is kept.
        keeps_states: Whether steps may have to be taken again.
        keeps_derivatives: Whether the log also keeps the derivative of each
            evaluation, and state and derivative at the start of each step:
            dense output and the gradient to times need them.
        is_dense: Whether steps need their dense output.
    """

    class Record(typing.NamedTuple):
        """The record of the steps, the states, and the evaluations.

        Attributes:
            steps: Record of a `StepRecorder`.
            store: `Store`, or `()`.
            log: `Log`, or `()`.
            num_repeated: Integer scalar, evaluations made for the log alone.
        """

        steps: StepRecorder.Record
        store: bounded_state_store.Store | tuple
        log: Log | tuple
        num_repeated: tf.Tensor

        @property
        def num_steps(self):
            """The number of steps recorded."""
            return self.steps.num_steps

    def __init__(self, problem, max_checkpoints, memory_limit):
        solver = problem.solver
        super().__init__(solver.max_num_steps)
        self._capacity = max_checkpoints
        self._solver = solver
        self._tableau = solver.tableau
        self._pieces = problem.pieces()
        self._has_restarts = self._pieces.has_jumps and solver.tableau.fsal
        self._evaluations_per_step = solver.evaluations_per_step()
        first_part, *others = problem.field.parts
        self.gradient = problem.gradient_of(first_part)
        self.is_dense = problem.is_dense
        needs_states = self.is_dense or problem.events is not None
        self.keeps_derivatives = problem.times_vary or needs_states
        has_clocks = problem.times.shape.rank == 2
        self._may_fail_in_part = solver.is_adaptive and has_clocks
        self.log = None
        if memory_limit and self._can_log():
            self.log = self._make_log(problem, memory_limit)
        # What a log keeps is of no use to other parts of the field.
        self._takes_all_again = bool(others) or not self.log
        self.keeps_states = self._takes_all_again or not self.log.keeps_all

    def _can_log(self):
        # The gradient of a step with Jacobians is taken from its state.
        return self.gradient.can_store and not self._solver.needs_jacobian

    def _make_log(self, problem, memory_limit):
        leaves = [tf.TensorSpec(leaf.shape, leaf.dtype) for leaf in problem.y]
        if not self.keeps_derivatives:
            leaves = []
        log = EvaluationLog(
            self.gradient.kept_specs + leaves,
            leaves * (1 + self._tableau.fsal),
            self._evaluations_per_step + self._has_restarts,
            problem.solver.max_num_steps,
            memory_limit,
        )
        # A log without room costs a flow under XLA an eighth of its step.
        return None if log.keeps_none else log

    def evaluator(self, ode_fn):
        """Returns the dynamics for one step, such that they are recorded."""
        if self.log:
            return Evaluations(self.gradient)
        return super().evaluator(ode_fn)

    def start(self, t, y, f, evaluated):
        """Returns an empty record for clocks like `t`."""
        log = store = ()
        num_repeated = 0
        if self.log:
            first, num_repeated = self._first(t, y, evaluated)
            log = self.log.start(first, self._starts(y, f))
        if self.keeps_states:
            store = bounded_state_store.empty(self._capacity, [*y, *f])
        steps = super().start(t, y, f, evaluated)
        return self.Record(steps, store, log, tf.constant(num_repeated))

    def _first(self, t, y, evaluated):
        """Returns what the first evaluation keeps, and how many it takes."""
        if self._tableau.fsal:
            return self._all_kept(evaluated)[0], 0
        if self.log.is_sized:
            return None, 0
        # Only sizes are needed: XLA drops the evaluation.
        evaluations = Evaluations(self.gradient)
        evaluations(tf.cast(t, y[0].dtype), y)
        return self._all_kept(evaluations)[0], 1

    def _starts(self, y, f):
        return [*y, *f] if self.keeps_derivatives else []

    def _all_kept(self, evaluated):
        if not self.keeps_derivatives:
            return evaluated.kept
        pairs = zip(evaluated.kept, evaluated.derivatives, strict=True)
        return [[*kept, *derivative] for kept, derivative in pairs]

    def _kept_behind(self, evaluated):
        """Returns what the evaluation behind a jump kept, in a list."""
        if not self._has_restarts:
            return []
        # Nothing asks for its derivative.
        unused = evaluated.derivatives[-1] if self.keeps_derivatives else []
        return [[*evaluated.kept_behind, *unused]]

    def record(self, record, advanced, t, dt, y, f, evaluated):
        """Adds a step from `(t, y)`; it stays if any clock `advanced`."""
        n = record.num_steps
        log, store, num_repeated = record.log, record.store, 0
        if self.log:
            kept = self._all_kept(evaluated)
            if self._may_fail_in_part:
                kept, num_repeated = self._without_failures(
                    kept, advanced, t, dt, y, f
                )
            kept = kept + self._kept_behind(evaluated)
            log = self.log.record(log, n, kept, self._starts(y, f))
        if self.keeps_states:
            number = n - self.first_stored(record)
            store = bounded_state_store.keep(store, number, [*y, *f])
        return self.Record(
            super().record(record.steps, advanced, t, dt, y, f, evaluated),
            store,
            log,
            record.num_repeated + num_repeated,
        )

    def _without_failures(self, kept, advanced, t, dt, y, f):
        """Returns what a step keeps in which some clocks failed.

        They stay where they are, and so do their evaluations: what a failed
        attempt computed may not be finite, and 0 times that is NaN.
        """
        has_failed = tf.not_equal(dt, 0.0) & ~advanced
        is_partial = tf.reduce_any(advanced) & tf.reduce_any(has_failed)

        def evaluate_again():
            evaluations = Evaluations(self.gradient)
            self._solver.step(
                evaluations,
                self._pieces.at(t).interval,
                t,
                tf.where(advanced, dt, 0.0),
                y,
                f,
            )
            return self._all_kept(evaluations)

        kept = tf.cond(is_partial, evaluate_again, lambda: kept)
        return kept, tf.where(is_partial, self._evaluations_per_step, 0)

    def steps(self, record, output_steps):
        """Returns the recorded `AdaptiveSteps`."""
        return super().steps(record.steps, output_steps)

    def first_stored(self, record):
        """Returns the number of the step whose state is 0 in the store.

        The steps before it are in the log.
        """
        return 0 if self._takes_all_again else record.log.window

    def read(self, record, n):
        """Returns `(evaluations, leaves)` of step `n`, as it was recorded.

        The leaves are those of state and derivative at its start, `[]` unless
        `keeps_derivatives`.
        """
        kept, leaves = self.log.read(record.log, n)
        behind = kept.pop() if self._has_restarts else None
        return self._evaluations(kept, behind), leaves

    def read_first(self, record):
        """Returns the `Evaluations` at the start of the solve."""
        return self._evaluations([self.log.first(record.log)])

    def _evaluations(self, kept, behind=None):
        evaluations = Evaluations(self.gradient)
        count = len(self.gradient.kept_specs)
        if behind is not None:
            evaluations.kept_behind = behind[:count]
        evaluations.kept = [tensors[:count] for tensors in kept]
        evaluations.derivatives = [tensors[count:] for tensors in kept]
        return evaluations
