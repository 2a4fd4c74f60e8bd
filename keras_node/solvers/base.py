"""Base class of the solvers, and its interface to tfp."""

import tensorflow as tf
import tensorflow_probability as tfp

from keras_node.common.arguments import (
    as_boolean,
    as_step_size,
    check_common,
    check_step_size_factors,
)
from keras_node.common.state import as_float64, flat_ode_fn, widen
from keras_node.saving import configs
from keras_node.solvers import failures, solution
from keras_node.solvers.own_adjoint import OwnAdjointSolver, as_number
from keras_node.solvers.solver_chosen_times import TrajectoryRecorder


class Solver(OwnAdjointSolver, tfp.math.ode.Solver):
    """Base class of the solvers of this package.

    Solves `dy/dt = f(t, y)` from `y(t0)` through the requested times, in
    either direction. Time is kept in float64 whatever the dtype of the state,
    and `f` is never evaluated outside the interval between the first and the
    last time. Every solve ends: after `max_num_steps` at the latest, and as
    soon as a value that is not finite cannot be avoided by a smaller step.

    Args:
        rtol: Positive float, the error allowed in a step relative to the
            state. Default 1e-3. At least four epsilons of the state's dtype
            are used, 4.8e-7 in float32: a smaller error cannot be told from
            rounding.
        atol: Nonnegative float, the error allowed in absolute terms, in the
            units of the state. Default 1e-6.
        first_step_size: Positive float in the units of time, or a scalar
            float tensor, or `None` (default) to choose it automatically.
        safety_factor: Float in (0, 1], by which a step stays below what the
            error would allow. Default 0.8.
        min_step_size_factor: Float in (0, 1), the least factor from one step
            size to the next. Default 0.2.
        max_step_size_factor: Float above 1, the largest factor. Default 10.
        max_num_steps: Positive integer, the most steps to try in a solve,
            accepted and rejected, at most ten million. Default 4096.
        per_sample_steps: Boolean. If `True`, every sample (entry of the first
            axis of the state) has its own time, step size, error, status and
            counts, and its result does not depend on the others; the dynamics
            then get `t` of shape `(batch,)`. Default `False`.
        on_failure: `"raise"` (default) raises `InvalidArgumentError` when a
            solve fails, naming the cause; `"nan"` makes the state NaN from
            the failure on (with per-sample steps: of the failing samples).
            Under XLA nothing can raise, and `"raise"` acts as `"nan"`.
        make_adjoint_solver_fn: As in `tfp.math.ode.Solver`, used by `solve`.
        validate_args: As in `tfp.math.ode.Solver`.
        name: String, name of the solver.

    Raises:
        ValueError: If an argument is out of its range.
        TypeError: If `per_sample_steps` is not a boolean.
    """

    def __init__(
        self,
        rtol=1e-3,
        atol=1e-6,
        first_step_size=None,
        safety_factor=0.8,
        min_step_size_factor=0.2,
        max_step_size_factor=10.0,
        max_num_steps=4096,
        per_sample_steps=False,
        on_failure="raise",
        make_adjoint_solver_fn=None,
        validate_args=False,
        name=None,
    ):
        super().__init__(
            make_adjoint_solver_fn=make_adjoint_solver_fn or self._itself,
            validate_args=validate_args,
            name=name or type(self).__name__.lower(),
        )
        check_common(rtol, atol, first_step_size, max_num_steps, on_failure)
        check_step_size_factors(
            safety_factor, min_step_size_factor, max_step_size_factor
        )
        self.rtol = float(rtol)
        self.atol = float(atol)
        self.first_step_size = as_step_size(first_step_size)
        self.safety_factor = safety_factor
        self.min_step_size_factor = min_step_size_factor
        self.max_step_size_factor = max_step_size_factor
        self.max_num_steps = int(max_num_steps)
        self.per_sample_steps = as_boolean(per_sample_steps, "per_sample_steps")
        self.on_failure = on_failure

    # Whether the steps that a recorder keeps can be taken again, whether the
    # method is for stiff dynamics, and whether a step needs their Jacobian.
    can_replay = False
    is_stiff = False
    needs_jacobian = False

    def integrate(
        self,
        ode_fn,
        times,
        y,
        recorder=None,
        norm=None,
        first_step_size=None,
        jumps=None,
        keeps_dense=False,
        events=None,
    ):
        """Solves for flat state, without gradients.

        Args:
            ode_fn: Callable `(t, leaves) -> leaves`, `t` in the dtype of the
                first leaf.
            times: Float64 `(T,)` for one clock, `(T, batch)` for one each,
                monotonic, the first being the time of `y`.
            y: List of float tensors.
            recorder: Keeps the accepted steps, see `StepRecorder`.
            norm: Callable from leaves to a number per clock, the norm of the
                scaled error.
            first_step_size: Float, or floats per clock; overrides the
                solver's own.
            jumps: Jumps of the dynamics, as `pieces.sorted_jumps` returns
                them; `None` for none.
            keeps_dense: Whether to keep the `DenseSolution`, which adaptive
                methods can.
            events: `TracedEvents`, which adaptive methods can find; or `None`.
                With them there are jumps, and a clock for each sample.

        Returns:
            `Solution`; a failure shows as status and NaN, it is not raised.
        """
        raise NotImplementedError

    def choose_first_step(self, ode_fn, times, y, norm=None):
        """Returns the first step size, per clock."""
        raise NotImplementedError

    @property
    def tolerances(self):
        """`(rtol, atol)` as floats, even while they are variables."""
        return as_number(self.rtol), as_number(self.atol)

    def get_config(self):
        """Returns the arguments that make an equal solver."""
        rtol, atol = self.tolerances
        return {
            "rtol": rtol,
            "atol": atol,
            "first_step_size": as_number(self.first_step_size),
            "safety_factor": self.safety_factor,
            "min_step_size_factor": self.min_step_size_factor,
            "max_step_size_factor": self.max_step_size_factor,
            "max_num_steps": self.max_num_steps,
            "per_sample_steps": self.per_sample_steps,
            "on_failure": self.on_failure,
        }

    @classmethod
    def from_config(cls, config):
        """Creates a solver from the result of `get_config`."""
        return configs.from_config(cls, config)

    def _initialize_solver_internal_state(
        self, ode_fn, initial_time, initial_state
    ):
        # A step size of 0 means that one is still to be chosen.
        t = as_float64(initial_time)
        return solution.InternalState(t, tf.zeros_like(t))

    def _adjust_solver_internal_state_for_state_jump(
        self, previous_solver_internal_state, **unused
    ):
        # A jump of the cotangent does not change the time scale.
        return previous_solver_internal_state

    def _solve(
        self,
        ode_fn,
        initial_time,
        initial_state,
        solution_times,
        jacobian_fn=None,
        jacobian_sparsity=None,
        batch_ndims=None,
        previous_solver_internal_state=None,
    ):
        """Solves for `tfp.math.ode.Solver.solve`, which adds its adjoint."""
        del jacobian_fn, jacobian_sparsity, batch_ndims
        leaves = tf.nest.flatten(initial_state)
        _check_state(leaves)
        dtypes = [leaf.dtype for leaf in leaves]
        recorder = None
        if isinstance(solution_times, tfp.math.ode.ChosenBySolver):
            solution_times = as_float64(solution_times.final_time)[None]
            recorder = self._trajectory_recorder()
        start = tf.reshape(as_float64(initial_time), [1])
        times = tf.concat([start, as_float64(solution_times)], axis=0)
        result = self._integrate_on(
            flat_ode_fn(ode_fn, initial_state),
            self.clock(times, leaves),
            widen(leaves),
            recorder,
            previous_solver_internal_state,
        )
        times = times[1:]
        rows = [leaf[1:] for leaf in failures.check(self, result)]
        if recorder:
            times, rows = recorder.trajectory(result.record, times, rows)
        rows = [tf.cast(a, d) for a, d in zip(rows, dtypes, strict=True)]
        widest = max(dtypes, key=lambda dtype: dtype.size)
        return tfp.math.ode.Results(
            times=tf.cast(times, widest),
            states=tf.nest.pack_sequence_as(initial_state, rows),
            diagnostics=result.diagnostics,
            solver_internal_state=result.internal,
        )

    def _trajectory_recorder(self):
        if self.per_sample_steps:
            raise ValueError(
                "`ChosenBySolver` needs one clock for the whole batch, as "
                "`times` has no batch axis. Received: per_sample_steps=True"
            )
        return TrajectoryRecorder()

    def _integrate_on(self, ode_fn, times, y, recorder, previous):
        """Starts with the step size of a previous solve, if there was one."""
        first_step_size = None
        if previous is not None:
            first_step_size = tf.where(
                previous.step_size > 0,
                previous.step_size,
                self.choose_first_step(ode_fn, times, y),
            )
        return self.integrate(
            ode_fn,
            times,
            y,
            recorder=recorder,
            first_step_size=first_step_size,
        )

    def clock(self, times, leaves):
        """Returns times `(T,)`, repeated for each clock of this solver."""
        if not self.per_sample_steps or times.shape.rank == 2:
            return times
        batch = tf.shape(leaves[0])[0]
        return tf.tile(times[:, None], [1, batch])


def _check_state(leaves):
    for leaf in leaves:
        if not leaf.dtype.is_floating:
            raise TypeError(
                "`initial_state` must be a float tensor or a nested structure "
                "of them; write 1.0 instead of 1, or split complex numbers "
                "into real and imaginary parts. "
                f"Received: initial_state of dtype {leaf.dtype.name}"
            )
