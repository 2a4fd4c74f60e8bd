"""The contract of a solver, and its face towards tfp."""

import numbers

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from keras_node.solvers import failure, solution
from keras_node.solvers.trajectory import TrajectoryRecorder


class Solver(tfp.math.ode.Solver):
    """Base class of the solvers of this package.

    Solves `dy/dt = f(t, y)` from `y(t0)` through the requested times, in
    either direction. Time is kept in float64 whatever the dtype of the state,
    and `f` is never evaluated outside the interval between the first and the
    last time. Every solve ends: after `max_num_steps` at the latest, and as
    soon as a value that is not finite cannot be avoided by a smaller step.

    Args:
        rtol: Positive float, error allowed in a step relative to the state.
            Default 1e-3.
        atol: Nonnegative float, the error allowed in absolute terms, in the
            units of the state. Default 1e-6.
        first_step_size: Positive float in the units of time, or `None`
            (default) to choose it automatically.
        safety_factor: Float in (0, 1], by which a step stays below what the
            error would allow. Default 0.9.
        min_step_size_factor: Float in (0, 1), least change of the step size
            from one step to the next. Default 0.2.
        max_step_size_factor: Float above 1, most change. Default 10.
        max_num_steps: Positive integer, the most steps to try in a solve,
            accepted and rejected. Default 4096.
        per_sample_steps: Boolean. If `True`, every sample (entry of the first
            axis of the state) has its own time, step size, error, status and
            counts, and its result does not depend on the others; the dynamics
            then gets `t` of shape `(batch,)`. Default `False`.
        on_failure: `"raise"` (default) raises `InvalidArgumentError` when a
            solve fails, naming the cause; `"nan"` makes the state NaN from
            the failure on (with per-sample steps: of the failing samples).
            Under XLA nothing can raise, and `"raise"` acts as `"nan"`.
        make_adjoint_solver_fn: As in `tfp.math.ode.Solver`, used by `solve`.
        validate_args: As in `tfp.math.ode.Solver`.
        name: String, name of the solver.

    Raises:
        ValueError: If an argument is out of its range.
    """

    def __init__(
        self,
        rtol=1e-3,
        atol=1e-6,
        first_step_size=None,
        safety_factor=0.9,
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
            make_adjoint_solver_fn=make_adjoint_solver_fn or (lambda: self),
            validate_args=validate_args,
            name=name or type(self).__name__.lower(),
        )
        check_common(rtol, atol, max_num_steps, on_failure)
        _check_step_sizes(
            first_step_size,
            safety_factor,
            min_step_size_factor,
            max_step_size_factor,
        )
        self.rtol = rtol
        self.atol = atol
        self.first_step_size = first_step_size
        self.safety_factor = safety_factor
        self.min_step_size_factor = min_step_size_factor
        self.max_step_size_factor = max_step_size_factor
        self.max_num_steps = int(max_num_steps)
        self.per_sample_steps = bool(per_sample_steps)
        self.on_failure = on_failure

    def integrate(
        self,
        ode_fn,
        times,
        y,
        recorder=None,
        norm=None,
        first_step_size=None,
    ):
        """Solves for flat state, without gradients.

        Args:
            ode_fn: Callable `(t, leaves) -> leaves`, `t` in the dtype of the
                first leaf.
            times: Float64 `(T,)` for one clock, `(T, batch)` for one each,
                monotonic, the first being the time of `y`.
            y: List of float tensors.
            recorder: What keeps the accepted steps, see `StepRecorder`.
            norm: Callable from leaves to lanes, the norm of the scaled error.
            first_step_size: Float or lanes, overrides the solver's own.

        Returns:
            `Solution`; failure is told by its status and NaN, not raised.
        """
        raise NotImplementedError

    def choose_first_step(self, ode_fn, times, y, norm=None):
        """Returns the step size to begin with, in each lane."""
        raise NotImplementedError

    def get_config(self):
        """Returns the arguments that make an equal solver."""
        return {
            "rtol": self.rtol,
            "atol": self.atol,
            "first_step_size": self.first_step_size,
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
        return cls(**config)

    def _initialize_solver_internal_state(
        self, ode_fn, initial_time, initial_state
    ):
        # A step size of 0 is one still to be chosen.
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
        dtypes = [leaf.dtype for leaf in leaves]
        flat = flat_ode_fn(ode_fn, initial_state)
        chosen = isinstance(solution_times, tfp.math.ode.ChosenBySolver)
        recorder = None
        if chosen:
            if self.per_sample_steps:
                raise ValueError(
                    "`ChosenBySolver` needs one clock for the whole batch, as "
                    "`times` has no batch axis. Received: "
                    "per_sample_steps=True"
                )
            recorder = TrajectoryRecorder()
            solution_times = as_float64(solution_times.final_time)[None]
        times = self.clock(
            tf.concat(
                [
                    tf.reshape(as_float64(initial_time), [1]),
                    as_float64(solution_times),
                ],
                axis=0,
            ),
            leaves,
        )
        first_step_size = None
        leaves = widen(leaves)
        if previous_solver_internal_state is not None:
            chosen_size = previous_solver_internal_state.step_size
            first_step_size = tf.where(
                chosen_size > 0,
                chosen_size,
                self.choose_first_step(flat, times, leaves),
            )
        result = self.integrate(
            flat,
            times,
            leaves,
            recorder=recorder,
            first_step_size=first_step_size,
        )
        states = failure.check(self, result)
        times = times[1:]
        rows = [leaf[1:] for leaf in states]
        if chosen:
            times, rows = recorder.trajectory(result.record, times, rows)
        rows = [tf.cast(a, d) for a, d in zip(rows, dtypes, strict=True)]
        if self.per_sample_steps:
            times = times[:, 0]
        return tfp.math.ode.Results(
            times=tf.cast(times, _real_dtype(dtypes)),
            states=tf.nest.pack_sequence_as(initial_state, rows),
            diagnostics=result.diagnostics,
            solver_internal_state=result.internal,
        )

    def clock(self, times, leaves):
        """Returns `(T,)` times for the lanes of this solver."""
        if not self.per_sample_steps or times.shape.rank == 2:
            return times
        batch = tf.shape(leaves[0])[0]
        return tf.tile(times[:, None], [1, batch])


def as_float64(times):
    """Returns times in float64; a cast takes Python's floats for float32."""
    if any(tf.is_tensor(time) for time in tf.nest.flatten(times)):
        return tf.cast(times, tf.float64)
    return tf.convert_to_tensor(np.asarray(times, np.float64))


def flat_ode_fn(ode_fn, structure):
    """Lets dynamics of nested state take and return lists of leaves.

    The derivative is widened to the state's dtype where that was widened, and
    inherits its static shape.
    """
    dtypes = [leaf.dtype for leaf in tf.nest.flatten(structure)]

    def flat(t, leaves):
        state = [tf.cast(a, d) for a, d in zip(leaves, dtypes, strict=True)]
        derivative = ode_fn(
            tf.cast(t, dtypes[0]), tf.nest.pack_sequence_as(structure, state)
        )
        slopes = []
        flat_derivative = tf.nest.flatten(derivative)
        for slope, leaf in zip(flat_derivative, leaves, strict=True):
            slope = tf.cast(slope, leaf.dtype)
            slope.set_shape(leaf.shape)
            slopes.append(slope)
        return slopes

    return flat


def widen(leaves):
    """Casts half precision leaves to float32, in which they are solved."""
    return [
        tf.cast(leaf, tf.float32) if leaf.dtype.size < 4 else leaf
        for leaf in leaves
    ]


def _real_dtype(dtypes):
    return max(dtypes, key=lambda dtype: dtype.size)


def is_positive_integer(value):
    """Whether a value is an integer above 0, of Python or of numpy."""
    is_integer = isinstance(value, numbers.Integral)
    return is_integer and not isinstance(value, bool) and value > 0


def check_common(rtol, atol, max_num_steps, on_failure):
    """Raises `ValueError` for arguments that no solver can take."""
    if not rtol > 0:
        raise ValueError(
            f"`rtol` must be a positive float. Received: rtol={rtol}"
        )
    if not atol >= 0:
        raise ValueError(
            f"`atol` must be a nonnegative float. Received: atol={atol}"
        )
    if not is_positive_integer(max_num_steps):
        raise ValueError(
            "`max_num_steps` must be a positive integer. "
            f"Received: max_num_steps={max_num_steps}"
        )
    if on_failure not in ("raise", "nan"):
        raise ValueError(
            '`on_failure` must be "raise" or "nan". '
            f"Received: on_failure={on_failure!r}"
        )


def _check_step_sizes(first, safety, smallest, largest):
    if first is not None and not first > 0:
        raise ValueError(
            "`first_step_size` must be a positive float in the units of time, "
            f"or `None` to choose it. Received: first_step_size={first}"
        )
    if not 0 < safety <= 1:
        raise ValueError(
            "`safety_factor` must be above 0 and at most 1. "
            f"Received: safety_factor={safety}"
        )
    if not 0 < smallest < 1 < largest:
        raise ValueError(
            "`min_step_size_factor` must lie between 0 and 1, and "
            "`max_step_size_factor` above 1. Received: "
            f"min_step_size_factor={smallest}, max_step_size_factor={largest}"
        )
