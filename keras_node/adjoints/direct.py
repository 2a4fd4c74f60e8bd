"""Differentiation through the operations of the solver."""

import keras
import tensorflow as tf

from keras_node.adjoints.base import Adjoint, require_own_solver
from keras_node.adjoints.custom_gradient import reported, solve_unrecorded
from keras_node.common import tf_internals
from keras_node.solvers import landing, pieces, solution
from keras_node.solvers.replay import replay
from keras_node.solvers.step_sequence import StepRecorder


@keras.saving.register_keras_serializable(package="keras_node")
class DirectAdjoint(Adjoint):
    """Autodiff through every operation of the solve.

    Gives the exact gradient of the discrete solution, and derivatives of any
    order. Memory grows with the steps: `O(steps * stages)` times what one
    evaluation of the dynamics keeps for its gradient.

    An adaptive solver first finds its steps, then takes the accepted ones
    again for the tape to see; the diagnostics count both. So a rejected step,
    which may have overflowed, cannot put a NaN into the gradient, and memory
    grows with the accepted steps alone. The backward pass evaluates nothing
    anew: its NFE counts the evaluations that it pulls back.

    Under XLA, which must know sizes beforehand, the stacks of the gradient
    hold `max_num_steps` steps: set it low, and take the gradient within the
    compiled function, which TensorFlow cannot carry stacks out of. Dynamics
    with a loop or a condition in them compile only where none of their
    gradients needs an axis.

    Example:
    >>> x = tf.constant([1.0])
    >>> with tf.GradientTape() as outer:
    ...     outer.watch(x)
    ...     with tf.GradientTape() as inner:
    ...         inner.watch(x)
    ...         y = keras_node.odeint(
    ...             lambda t, y: -y * y, x, (0.0, 1.0), adjoint="direct"
    ...         ).states[-1]
    ...     first = inner.gradient(y, x)
    >>> round(float(outer.gradient(first, x)[0]), 2)  # -2 / (1 + x)**3
    -0.25

    Reference:
    - [Hager, 2000](https://doi.org/10.1007/s002110000178)
    """

    citations = ("hager2000",)

    def solve(self, problem):
        """Solves a `Problem`; returns a `Solution` that is differentiable."""
        require_own_solver(problem.solver, "direct")
        solver = problem.solver
        if not solver.is_adaptive:
            return self._solve_fixed(problem)
        recorder = StepRecorder(solver.max_num_steps)
        result = solve_unrecorded(problem, recorder)
        states, _, dense, event_times = replay(
            solver,
            problem.field.recorded,
            problem.times,
            result.steps.frozen(),
            problem.y,
            jumps=problem.jumps,
            keeps_dense=problem.keeps_dense,
            events=problem.events and problem.events.recorded,
        )
        events = result.events
        if events is not None:
            events = events._replace(times=event_times)
        succeeded = tf.equal(result.diagnostics.status, 0)
        states = _nan_end_unless(succeeded, states)
        counts = result.diagnostics
        num_replayed = counts.num_accepted_steps * _replayed_per_step(problem)
        num_replayed += 1 + _num_behind(problem, result)
        counts = counts._replace(
            num_ode_fn_evaluations=counts.num_ode_fn_evaluations + num_replayed
        )
        return result._replace(
            states=_report_backward(problem, states, num_replayed),
            diagnostics=counts,
            dense=dense,
            events=events,
        )

    def _solve_fixed(self, problem):
        solver = problem.solver
        result = solver.integrate(
            problem.field.recorded,
            problem.times,
            problem.y,
            jumps=problem.jumps,
        )
        num_evaluations = result.diagnostics.num_ode_fn_evaluations
        return result._replace(
            states=_report_backward(problem, result.states, num_evaluations)
        )


def _num_behind(problem, result):
    """Returns the evaluations behind jumps and events, per clock."""
    restarts = int(problem.solver.tableau.fsal)
    count = restarts * pieces.num_restarts(
        problem.times, problem.jumps, result.internal.t
    )
    if problem.events is not None:
        happened = tf.cast(result.events.indices >= 0, tf.int32)
        per_event = restarts + landing.num_evaluations(problem.events)
        count += per_event * tf.reduce_sum(happened, axis=0)
    return count


def _replayed_per_step(problem):
    is_dense = problem.is_dense
    num_dense_stages = problem.solver.tableau.num_dense_stages
    count = problem.solver.evaluations_per_step()
    return count + is_dense * num_dense_stages


def _nan_end_unless(succeeded, states):
    """Makes the end NaN if the solve failed, which its replay cannot know."""
    ends = solution.nan_unless(succeeded, [leaf[-1] for leaf in states])
    return [
        tf.concat([leaf[:-1], end[None]], axis=0)
        for leaf, end in zip(states, ends, strict=True)
    ]


def _report_backward(problem, states, num_evaluations):
    """Reports the backward NFE when, and only when, a gradient is taken."""
    if problem.on_backward is None:
        return states

    @tf_internals.custom_gradient
    def identity(*leaves):
        graph = tf.compat.v1.get_default_graph()

        def gradient(*cotangents):
            is_here = tf.compat.v1.get_default_graph() is graph
            if not is_here and not problem.is_whole_graph:
                return cotangents  # No metric is available here.
            return reported(problem.on_backward, num_evaluations, cotangents)

        return tuple(tf.identity(leaf) for leaf in leaves), gradient

    return list(identity(*states))
