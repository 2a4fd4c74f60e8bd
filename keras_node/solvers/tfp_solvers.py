"""TensorFlow Probability's solvers, with the interface of this package."""

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from keras_node.common.arguments import as_step_size, check_common
from keras_node.saving.identifiers import Configurable
from keras_node.solvers import clocks, failures, solution
from keras_node.solvers.own_adjoint import OwnAdjointSolver

_UNKNOWN = -1
_ARGUMENTS = ("rtol", "atol", "first_step_size", "max_num_steps", "on_failure")


class TfpSolver(tfp.math.ode.Solver):
    """A tfp solver that integrates as this package's `Solver` does.

    tfp's solvers need increasing times and keep them in the dtype of the
    state: they get the time since the start, in the direction of the solve.
    """

    can_replay = False
    is_stiff = False
    needs_jacobian = False

    def integrate(self, ode_fn, times, y, **unused):
        """Solves for flat state, as `Solver.integrate`; step counts are -1.

        Records no steps, and controls the error in tfp's norm.
        """
        if isinstance(self._tfp_solver, tfp.math.ode.BDF):
            _require_static_shapes(self._tfp_solver, y)
        direction = tf.sign(times[-1] - times[0])

        def elapsed_ode_fn(elapsed, state):
            t = times[0] + direction * tf.cast(elapsed, tf.float64)
            t = _without_rounding(t, times, elapsed.dtype)
            slopes = ode_fn(tf.cast(t, y[0].dtype), list(state))
            return tuple(clocks.scale(direction, slopes))

        # Dynamics that are NaN at the start would use up all steps allowed.
        first = ode_fn(tf.cast(times[0], y[0].dtype), y)
        starts = clocks.are_finite([*first, *y], 0)

        def guarded_ode_fn(elapsed, state):
            slopes = elapsed_ode_fn(elapsed, state)
            zeros = [tf.zeros_like(slope) for slope in slopes]
            return tuple(clocks.select(starts, slopes, zeros))

        results = self._tfp_solver.solve(
            guarded_ode_fn,
            initial_time=tf.zeros([], tf.float64),
            initial_state=tuple(y),
            solution_times=tf.abs(times[1:] - times[0]),
        )
        return _as_solution(self, times, y, starts, results)

    @property
    def _tfp_solver(self):
        return self


class ForeignSolver(TfpSolver):
    """Any other `tfp.math.ode.Solver`, as wrapped by `solvers.get`.

    Args:
        solver: `tfp.math.ode.Solver`.
    """

    def __init__(self, solver):
        self.solver = solver
        self.is_stiff = isinstance(solver, tfp.math.ode.BDF)

    @property
    def name(self):
        """The name of the solver."""
        return self.solver.name

    def solve(self, *args, **kwargs):
        """Solves with the solver; see `tfp.math.ode.Solver.solve`."""
        return self.solver.solve(*args, **kwargs)

    @property
    def _tfp_solver(self):
        return self.solver

    def _solve(self, *args, **kwargs):
        return self.solver._solve(*args, **kwargs)

    def _initialize_solver_internal_state(self, *args, **kwargs):
        return self.solver._initialize_solver_internal_state(*args, **kwargs)


@keras.saving.register_keras_serializable(package="keras_node")
class DormandPrince(
    OwnAdjointSolver, Configurable, TfpSolver, tfp.math.ode.DormandPrince
):
    """`tfp.math.ode.DormandPrince`, guarded so that every solve ends.

    A step that is not finite or no longer moves the clock makes the rest of
    the solve NaN; so do more than `max_num_steps` steps. tfp's solver loops
    forever on the former. Its error norm, its fixed first step and its
    evaluations beyond the last time are kept: `Dopri5` is the better choice.

    Args:
        rtol: Positive float, relative tolerance. Default 1e-3.
        atol: Positive float, absolute tolerance. Default 1e-6.
        first_step_size: Positive float in the units of time, or `None` for
            the default, 1e-3.
        max_num_steps: Positive integer, most steps to try, at most ten
            million. Default 4096.
        on_failure: `"raise"` (default) or `"nan"`, as in `Solver`.
        **kwargs: Other arguments of `tfp.math.ode.DormandPrince`.

    Reference:
    - [Dormand & Prince, 1980](https://doi.org/10.1016/0771-050X(80)90013-3)
    """

    citations = ("dormand1980",)
    _arguments = _ARGUMENTS

    def __init__(
        self,
        rtol=1e-3,
        atol=1e-6,
        first_step_size=None,
        max_num_steps=4096,
        on_failure="raise",
        **kwargs,
    ):
        check_common(rtol, atol, first_step_size, max_num_steps, on_failure)
        rtol, atol = float(rtol), float(atol)
        kwargs.setdefault("make_adjoint_solver_fn", self._itself)
        if first_step_size is None:
            first_step_size = 1e-3
        first_step_size = as_step_size(first_step_size)
        # Without tfp's `max_num_steps`: it is an assertion, which XLA drops.
        super().__init__(
            rtol=rtol, atol=atol, first_step_size=first_step_size, **kwargs
        )
        self.rtol = rtol
        self.atol = atol
        self.first_step_size = first_step_size
        self.max_num_steps = int(max_num_steps)
        self.on_failure = on_failure

    @property
    def max_num_evaluations(self):
        """The evaluations that `max_num_steps` steps take."""
        return self.max_num_steps * self.ODE_FN_EVALS_PER_STEP

    def _step(self, solver_state, diagnostics, *args, **kwargs):
        before = solver_state.current_time
        after, diagnostics = super()._step(
            solver_state, diagnostics, *args, **kwargs
        )
        # A step that is too small to move the clock is stuck.
        is_stuck = tf.equal(before + after.step_size, before)
        is_lost = ~tf.math.is_finite(after.step_size)
        is_over = diagnostics.num_ode_fn_evaluations >= self.max_num_evaluations
        ends = is_stuck | is_lost | is_over

        def fail(structure):
            leaves = solution.nan_unless(~ends, tf.nest.flatten(structure))
            return tf.nest.pack_sequence_as(structure, leaves)

        return after._replace(
            current_state=fail(after.current_state),
            current_time=tf.where(ends, before.dtype.max, after.current_time),
            interpolating_coefficients=fail(after.interpolating_coefficients),
        ), diagnostics


@keras.saving.register_keras_serializable(package="keras_node")
class BDF(OwnAdjointSolver, Configurable, TfpSolver, tfp.math.ode.BDF):
    """`tfp.math.ode.BDF`, for stiff dynamics, with a bound on its steps.

    Backward differentiation formulas of order 1 to 5. It solves linear
    systems of the size of the whole batch: for small states only.

    Args:
        rtol: Positive float, relative tolerance. Default 1e-3.
        atol: Positive float, absolute tolerance. Default 1e-6.
        first_step_size: Positive float in the units of time, or `None`
            (default) to choose it automatically.
        max_num_steps: Positive integer, most steps to try between two
            requested times, at most ten million. Default 4096.
        on_failure: `"raise"` (default) or `"nan"`, as in `Solver`.
        **kwargs: Other arguments of `tfp.math.ode.BDF`.

    Reference:
    - [Shampine & Reichelt, 1997](https://doi.org/10.1137/S1064827594276424)
    """

    citations = ("shampine1997",)
    is_stiff = True
    _arguments = _ARGUMENTS

    def __init__(
        self,
        rtol=1e-3,
        atol=1e-6,
        first_step_size=None,
        max_num_steps=4096,
        on_failure="raise",
        **kwargs,
    ):
        check_common(rtol, atol, first_step_size, max_num_steps, on_failure)
        rtol, atol = float(rtol), float(atol)
        first_step_size = as_step_size(first_step_size)
        kwargs.setdefault("make_adjoint_solver_fn", self._itself)
        super().__init__(
            rtol=rtol,
            atol=atol,
            first_step_size=first_step_size,
            max_num_steps=max_num_steps,
            **kwargs,
        )
        self.rtol = rtol
        self.atol = atol
        self.first_step_size = first_step_size
        self.max_num_steps = int(max_num_steps)
        self.on_failure = on_failure


def _without_rounding(t, times, dtype):
    """Returns the last time if `t` is past it by rounding alone, else `t`.

    Times that tfp evaluates well beyond it stay: moving them would put a kink
    into the dynamics within its last step.
    """
    past = tf.sign(times[-1] - times[0]) * (t - times[-1])
    largest = tf.maximum(tf.abs(times[0]), tf.abs(times[-1]))
    rounding = 4 * np.finfo(dtype.as_numpy_dtype).eps * largest
    return tf.where((past > 0) & (past <= rounding), times[-1], t)


def _require_static_shapes(solver, y):
    """Raises for unknown shapes: tfp's BDF needs a Jacobian of static size."""
    if not all(leaf.shape.is_fully_defined() for leaf in y):
        raise ValueError(
            "tfp's BDF needs a state of known shape, the batch included. Use "
            "`dataset.batch(size, drop_remainder=True)`, `tf.ensure_shape`, or "
            "a Runge-Kutta solver. "
            f"Received: solver={type(solver).__name__}, state of shapes "
            f"{[leaf.shape for leaf in y]}"
        )


def _as_solution(solver, times, y, starts, results):
    rows = solution.nan_unless(starts, results.states)
    succeeded = tf.reduce_all(
        [tf.reduce_all(tf.math.is_finite(leaf[-1])) for leaf in rows]
    )
    num_evaluations = tf.cast(
        results.diagnostics.num_ode_fn_evaluations, tf.int32
    )
    limit = getattr(solver, "max_num_evaluations", None)
    is_over = tf.less(results.diagnostics.status, 0)
    if limit is not None:
        is_over |= num_evaluations >= limit
    status = tf.where(succeeded, failures.SUCCESS, failures.NON_FINITE)
    status = tf.where(starts & is_over, failures.MAX_NUM_STEPS, status)
    rows = _nan_after_failure(rows, status, times, results)
    unknown = tf.constant(_UNKNOWN)
    return solution.Solution(
        states=[
            tf.concat([leaf[None], row], axis=0)
            for leaf, row in zip(y, rows, strict=True)
        ],
        diagnostics=solution.Diagnostics(
            # One more for the evaluation at the start.
            num_ode_fn_evaluations=num_evaluations + 1,
            num_accepted_steps=unknown,
            num_rejected_steps=unknown,
            status=status,
        ),
        internal=solution.InternalState(
            tf.where(starts, times[-1], times[0]), tf.zeros([], tf.float64)
        ),
    )


def _nan_after_failure(rows, status, times, results):
    """Makes rows NaN from the first failure on.

    BDF writes the state where it failed as if that were the requested time.
    """
    elapsed = tf.abs(times[1:] - times[0])
    # It leaves later rows at 0, and their times, too.
    written = tf.cast(results.times, tf.float64) >= 0.5 * elapsed
    row = tf.range(tf.shape(written)[0])
    num_written = tf.reduce_sum(tf.cast(written, tf.int32))
    reached = tf.equal(status, failures.SUCCESS) | (row < num_written - 1)
    return solution.nan_unless(reached, rows)
