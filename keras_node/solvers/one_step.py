"""Base class of the methods that step from one state to the next."""

import functools

import tensorflow as tf

from keras_node.common.arguments import as_boolean, is_positive
from keras_node.solvers import clocks, failures, pieces, solution, unrolled
from keras_node.solvers.adaptive import AdaptiveLoop
from keras_node.solvers.base import Solver
from keras_node.solvers.first_step_size import first_step
from keras_node.solvers.replay import replay
from keras_node.solvers.step_sequence import FixedSteps


class OneStepSolver(Solver):
    """Base class of the methods that step from one state to the next.

    A method is its `tableau` and its `step`. With an error estimate the step
    size is adapted so that each step keeps the error

        e_i <= atol + rtol * max(|y0_i|, |y1_i|)

    in the root mean square over the state, unless `step_size` fixes it.

    Args:
        step_size: Positive float in the units of time: takes fixed steps, each
            interval between requested times being divided into equal steps no
            longer than this. `None` (default) adapts the size; methods
            without an error estimate then take one step for each requested
            interval.
        unroll: Boolean, whether fixed steps at times that are known beforehand
            are taken without a loop, for exports: see docs/deployment.md.
            Default `False`.
        **kwargs: The other arguments of `Solver`.

    Raises:
        ValueError: If an argument is out of its range.
    """

    tableau = None
    can_replay = True
    diagnostics = solution.Diagnostics

    def __init__(self, step_size=None, unroll=False, **kwargs):
        super().__init__(**kwargs)
        if step_size is not None and not is_positive(step_size):
            raise ValueError(
                "`step_size` must be a positive float in the units of time, or "
                f"`None` to adapt it. Received: step_size={step_size!r}"
            )
        self.step_size = step_size
        self.unroll = as_boolean(unroll, "unroll")
        if self.unroll and self.is_adaptive:
            raise ValueError(
                "`unroll=True` needs fixed steps: an adaptive solver does not "
                "know their number beforehand. Set `step_size`. Received: "
                f"step_size=None, unroll=True of {type(self).__name__}"
            )

    def get_config(self):
        """Returns the arguments that make an equal solver."""
        return super().get_config() | {
            "step_size": self.step_size,
            "unroll": self.unroll,
        }

    def step(self, ode_fn, interval, t, dt, y, f):
        """Takes one step of size `dt` from `(t, y)`.

        Args:
            ode_fn: `step.Evaluator`.
            interval: `Interval` that no stage leaves.
            t: Float64 per clock.
            dt: Float64 per clock; 0 leaves a clock where it is.
            y: List of leaves.
            f: List of leaves, `ode_fn(t, y)`; `[]` for methods that are not
                first-same-as-last, which evaluate it.

        Returns:
            `(y1, f1, increments)`: the state at `t + dt`, its derivative (`[]`
            as above), and the increment of each main stage.
        """
        raise NotImplementedError

    @property
    def is_adaptive(self):
        """Whether the solver chooses its steps from the error."""
        return self.tableau.b_error is not None and self.step_size is None

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
        """Solves for flat state, without gradients; see `Solver.integrate`."""
        clock_rank = times.shape.rank - 1
        if not self.is_adaptive:
            return self._integrate_fixed(ode_fn, times, y, recorder, jumps)
        if norm is None:
            norm = functools.partial(clocks.rms, clock_rank=clock_rank)
        if first_step_size is None:
            first_step_size = self.first_step_size
        loop = AdaptiveLoop(
            self, ode_fn, times, norm, recorder, jumps, keeps_dense, events
        )
        return loop.run(y, first_step_size)

    def choose_first_step(self, ode_fn, times, y, norm=None):
        """Returns the automatic first step size; takes two evaluations."""
        clock_rank = times.shape.rank - 1
        t = times[0]
        first = first_step(
            ode_fn,
            t,
            y,
            ode_fn(tf.cast(t, y[0].dtype), y),
            times[-1],
            self,
            norm or functools.partial(clocks.rms, clock_rank=clock_rank),
        )
        return first.size

    def fixed_steps(self, times):
        """Returns the steps through `times`, if the solver fixes them."""
        return FixedSteps.divide(times, self.step_size)

    def evaluations_per_step(self):
        """Returns how often a step evaluates the dynamics."""
        return self.tableau.num_stages - int(self.tableau.fsal)

    def _integrate_fixed(self, ode_fn, times, y, recorder, jumps):
        steps = self.fixed_steps(times)
        intervals = record = None
        if self.unroll and recorder is None and jumps is None:
            intervals = unrolled.intervals(self, times)
        if intervals is not None:
            states = unrolled.states(self, ode_fn, times, intervals, y)
        else:
            states, record, *_ = replay(
                self, ode_fn, times, steps, y, recorder, jumps
            )
        is_finite = clocks.are_finite(states, times.shape.rank)
        return solution.Solution(
            states=solution.nan_unless(is_finite, states),
            diagnostics=self._fixed_diagnostics(
                times, steps, is_finite[-1], jumps
            ),
            internal=solution.InternalState(times[-1], times[-1] - times[-2]),
            steps=steps,
            record=record,
        )

    def _fixed_diagnostics(self, times, steps, is_finite, jumps):
        """Returns the `Diagnostics` of fixed steps.

        Args:
            times: Float64 `(T,)` or `(T, batch)`.
            steps: `FixedSteps`.
            is_finite: Boolean per clock, whether the last state is finite.
            jumps: As in `integrate`.
        """
        ones = tf.ones_like(times[0], tf.int32)
        num_steps = tf.minimum(steps.num_steps, self.max_num_steps)
        num_evaluations = num_steps * self.evaluations_per_step()
        if self.tableau.fsal:
            num_evaluations += pieces.num_restarts(times, jumps)
        status = tf.where(is_finite, failures.SUCCESS, failures.NON_FINITE)
        status = tf.where(
            steps.num_steps > self.max_num_steps,
            failures.MAX_NUM_STEPS,
            status,
        )
        return self.diagnostics(
            num_ode_fn_evaluations=ones
            * (num_evaluations + int(self.tableau.fsal)),
            num_accepted_steps=ones * num_steps,
            num_rejected_steps=0 * ones,
            status=ones * status,
        )
