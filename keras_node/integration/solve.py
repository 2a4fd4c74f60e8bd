"""The function `odeint`, a differentiable solve."""

import typing

import keras
import tensorflow as tf

from keras_node import adjoints, solvers
from keras_node.adjoints.base import Problem
from keras_node.common import tf_internals
from keras_node.common.conversion import as_tensor
from keras_node.common.nested_solves import is_within_dynamics
from keras_node.common.state import holds_tensor, widen
from keras_node.dynamics import traced_events, traced_field
from keras_node.dynamics.vector_field import VectorField
from keras_node.events import as_list
from keras_node.integration import (
    eager_solve_graphs,
    event_clock,
    jump_clock,
)
from keras_node.integration.results import Results
from keras_node.solvers import clocks, failures, pieces, requested_times


def odeint(
    dynamics,
    initial_state,
    times,
    solver="tsit5",
    adjoint="auto",
    jump_times=None,
    events=None,
    dense=False,
):
    """Solves an initial value problem, differentiably.

    Solves `dy/dt = f(t, y)`, `y(times[0]) = initial_state`, and returns `y`
    at each of `times`. The gradient flows to the initial state, to `times` if
    it is a tensor or holds some, to every trainable variable that `dynamics`
    uses, and to every float tensor that it closes over.

    Python runs `dynamics` once for each solve, as in a `tf.function`: what it
    reads then holds for the whole solve and its gradient. Eagerly, equal solves
    share one graph from the second on. To debug, let Python run at each
    evaluation: `tf.config.run_functions_eagerly(True)`.

    Args:
        dynamics: The vector field `f`: a callable `f(t, y)`; a Keras layer or
            model of `(t, y)`, or of `y` alone. It returns the derivative, in
            the structure, shapes and dtypes of the state. `t` is a scalar in
            the dtype of the state, or `(batch,)` with per-sample steps.
        initial_state: Float tensor or nested structure of them; half
            precision is solved in float32.
        times: 1-D floats in any unit, at least two, strictly increasing or
            strictly decreasing; the first is the time of `initial_state`.
            With per-sample clocks `(batch, T)`, each row in its own direction.
        solver: Solver identifier, see `keras_node.solvers.get`. Default
            `"tsit5"`.
        adjoint: Adjoint identifier, see `keras_node.adjoints.get`. Default
            `"auto"`: exact gradients where the solver allows it.
        jump_times: Floats `(J,)`, times at which `f` or its derivatives jump,
            in any order; or `(batch, J)`, those of each sample, padded with
            NaN, which implies a clock for each. Steps end there, and `f` is
            evaluated strictly before or after a jump, never at it. If they
            are a tensor the gradient flows to them: where `f` switches at a
            tensor, this is the only way to a gradient. Times outside the solve
            are ignored. Default `None`.
        events: `keras_node.Event` or a list of them, each with a clock for
            each sample. Behind a terminal event the states of a sample stay as
            they were at it. Default `None`.
        dense: Boolean, whether to keep the polynomials of all steps, for
            `results.interpolate(t)`. Takes the memory of about six states a
            step; under XLA for `max_num_steps` of them. Default `False`.

    Returns:
        A `tfp.math.ode.Results`: `times` in float64; `states`, time-major, one
        entry for each of `times`, the first being the initial state;
        `diagnostics` (`keras_node.solvers.Diagnostics`);
        `solver_internal_state`; `event_times` and `event_indices`; and the
        method `interpolate`.

    Raises:
        ValueError: If `times` is not monotonic, the derivative does not match
            the state, or the adjoint does not support the solver; if
            `jump_times` do not fit the batch, or come with a solver of
            TensorFlow Probability or a state in half precision; if `dense` or
            `events` come with fixed steps or the adjoint `"backsolve"`; if
            the condition of an event is not one number for each sample.
        TypeError: If the state is not float, `dynamics` is not callable, or
            `events` are no events.
        tf.errors.InvalidArgumentError: If the solve fails and the solver has
            `on_failure="raise"`, or if `times` known only when a graph runs
            are not monotonic.

    Example:
    >>> y0 = tf.constant([1.0])
    >>> results = keras_node.odeint(lambda t, y: -y, y0, times=(0.0, 1.0))
    >>> float(results.states[-1, 0])  # exp(-1) = 0.3679
    0.367...

    Reference:
    - [Chen et al., 2018](https://arxiv.org/abs/1806.07366)
    """
    ode_fn = VectorField(_converted(dynamics)).bind()
    return solve(
        ode_fn,
        initial_state,
        times,
        solver,
        adjoint,
        jump_times=jump_times,
        events=events,
        bind_event=lambda function, name: VectorField(
            _converted(function), name=name
        ).bind(),
        dense=dense,
    )


def _converted(dynamics):
    """Lets AutoGraph, where it is on, convert a user's function, not ours."""
    if isinstance(dynamics, keras.layers.Layer) or not callable(dynamics):
        return dynamics
    return tf_internals.convert_with_autograph(dynamics)


@tf.autograph.experimental.do_not_convert
def solve(
    ode_fn,
    initial_state,
    times,
    solver="tsit5",
    adjoint="auto",
    on_backward=None,
    on_drift=None,
    on_trace=None,
    num_controlled=None,
    times_are_data=False,
    jump_times=None,
    events=None,
    bind_event=None,
    dense=False,
):
    """Does what `odeint` does, with more options for layers.

    Args:
        ode_fn: Callable `(t, state) -> derivative`.
        on_backward: Callable of an integer tensor, called in each backward
            pass with its number of function evaluations; or `None`.
        on_drift: The same with the drift of backsolve; or `None`.
        on_trace: Callable of the `TracedField`; or `None`.
        num_controlled: Number of leaves of the state, from the first, that
            control the error; `None` for all.
        times_are_data: Whether `times` is a sorted tensor that needs no
            gradient, and whose neighbours may be equal. Rows at the first
            time, except the first row, are then unspecified where a clock
            does not advance.
        bind_event: Callable that makes a function `(t, state)` of a condition
            or a reset and its name; `None` (default) if they are functions.
    """
    solver = solvers.get(solver)
    adjoint = adjoints.get(adjoint)
    initial_state = _as_state(initial_state)
    leaves = tf.nest.flatten(initial_state)
    events = as_list(events)
    _check_combination(solver, adjoint, dense, events)
    clock = _clock_of(
        times, jump_times, events, solver, adjoint, leaves, times_are_data
    )
    if is_within_dynamics():
        on_backward = on_drift = None
    is_debugged = _is_debugged(solver, adjoint)
    if is_debugged and tf_internals.are_recording():
        adjoint = adjoints.DirectAdjoint()
    batch_shape = clock.times.shape[1:]
    problem = Problem(
        solver=solver,
        field=traced_field.PythonField(ode_fn, initial_state)
        if is_debugged
        else _traced(ode_fn, initial_state, clock.times, on_trace),
        times=clock.times,
        y=widen(leaves),
        times_vary=clock.varies,
        on_backward=on_backward,
        on_drift=on_drift,
        num_controlled=num_controlled,
        jumps=clock.jumps,
        keeps_dense=dense,
        events=traced_events.trace(
            events, bind_event, batch_shape, initial_state, is_debugged
        )
        if events
        else None,
    )
    result = eager_solve_graphs.solve(adjoint, problem)
    states = failures.check(solver, result)
    return _results_of(result, states, clock, events, initial_state)


class _Clock(typing.NamedTuple):
    """The times of a solve, as its solver and its adjoint take them.

    Attributes:
        requested: Float64 `(T,)` or `(T, batch)`, those of the results.
        times: The same, and the jumps among them if the solver needs them.
        rows: Which of `times` are requested; `None` if all are.
        jumps: Those within the solve; `None` without any.
        varies: Whether the times may need a gradient.
    """

    requested: tf.Tensor
    times: tf.Tensor
    rows: tf.Tensor | None
    jumps: typing.Any
    varies: bool


def _clock_of(times, jump_times, events, solver, adjoint, leaves, are_data):
    varies = holds_tensor(times)
    times = requested_times.as_clock(times, solver, leaves, are_data)
    if are_data:
        times = tf.stop_gradient(times)
    jumps = rows = None
    if jump_times is not None:
        varies |= holds_tensor(jump_times)
        times, jumps = jump_clock.as_jumps(jump_times, times, solver, leaves)
    if events:
        times, jumps = event_clock.with_clocks(events, times, jumps, leaves)
    requested = times
    if jumps is not None and _needs_rows(solver, adjoint):
        times, rows = pieces.merged(times, jumps)
    return _Clock(requested, times, rows, jumps, varies and not are_data)


def _results_of(result, states, clock, events, initial_state):
    """Returns the `Results` at the requested times, of the state's dtypes."""
    if clock.rows is not None:
        states = [clocks.rows_of(leaf, clock.rows) for leaf in states]
    states = [
        tf.cast(states_of, leaf.dtype)
        for states_of, leaf in zip(
            states, tf.nest.flatten(initial_state), strict=True
        )
    ]
    jumps, end = clock.jumps, result.internal.t
    if events:
        jumps = result.events.with_jumps(jumps)
        end = result.events.end(end, pieces.direction_of(clock.times))
    event_times, event_indices = event_clock.results_of(events, result.events)
    dense = result.dense
    if dense is not None:
        dense = dense.moving_with(clock.times, jumps, end)
    return Results(
        times=clock.requested,
        states=tf.nest.pack_sequence_as(initial_state, states),
        diagnostics=result.diagnostics,
        solver_internal_state=result.internal,
        dense=dense,
        event_times=event_times,
        event_indices=event_indices,
    )


def _check_combination(solver, adjoint, dense, events):
    """Raises if the solver or the adjoint cannot do what is asked for."""
    _refuse_vectorized_map(solver, adjoint)
    if dense:
        _require_steps(solver, adjoint, "`dense=True` needs")
    if events:
        _require_steps(solver, adjoint, "`events` need")


def _require_steps(solver, adjoint, what):
    """Raises unless a solve chooses its steps, and keeps them."""
    goes_back = adjoints.integrates_backwards(adjoint, solver)
    if goes_back or not getattr(solver, "is_adaptive", False):
        raise ValueError(
            f"{what} an adaptive one-step solver of keras_node, "
            'and the adjoint "checkpoint" or "direct", which keep its steps. '
            f"Received: solver={type(solver).__name__}, "
            f"adjoint={type(adjoint).__name__}"
        )


def _needs_rows(solver, adjoint):
    """Whether the jumps must be among the requested times."""
    goes_back = adjoints.integrates_backwards(adjoint, solver)
    return goes_back or not solver.is_adaptive


def _traced(ode_fn, initial_state, times, on_trace):
    """Returns the `TracedField`, checked against the resolution of time."""
    field = traced_field.trace(ode_fn, times.shape[1:], initial_state)
    if on_trace is not None:
        on_trace(field)
    if field.uses_time:
        dtype = tf.nest.flatten(initial_state)[0].dtype
        requested_times.check_resolution(times, dtype)
    return field


def _refuse_vectorized_map(solver, adjoint):
    """Raises if steps would be recorded under `tf.vectorized_map`.

    Each element would write to its own position of a list, which TensorFlow
    cannot vectorize.
    """
    is_adaptive = getattr(solver, "is_adaptive", False)
    records = not isinstance(adjoint, adjoints.BacksolveAdjoint)
    if tf_internals.is_vectorized() and is_adaptive and records:
        raise NotImplementedError(
            "`tf.vectorized_map` cannot batch an adaptive solve whose steps "
            "are recorded for the gradient. Solve the whole batch at once with "
            "`per_sample_steps=True`, fix `step_size`, or use "
            'adjoint="backsolve". Received: '
            f"solver={type(solver).__name__}, adjoint={type(adjoint).__name__}"
        )


def _is_debugged(solver, adjoint):
    """Whether Python is to run the dynamics at each evaluation."""
    is_debugged = tf.executing_eagerly() and tf.config.functions_run_eagerly()
    # An adjoint of another kind may measure the solve.
    return (
        is_debugged
        and solver.can_replay
        and type(adjoint) in eager_solve_graphs.ADJOINTS
    )


def _as_state(initial_state):
    """Returns a state whose leaves are float tensors, at least one."""
    state = tf.nest.map_structure(_as_float_tensor, initial_state)
    if not tf.nest.flatten(state):
        raise ValueError(
            "`initial_state` must hold at least one tensor. "
            f"Received: initial_state={initial_state!r}"
        )
    return state


def _as_float_tensor(value):
    expected = (
        "a float tensor or a nested structure of them; write 1.0 instead of "
        "1, or cast it"
    )
    tensor = as_tensor(value, "initial_state", expected)
    if not tensor.dtype.is_floating:
        raise TypeError(
            f"`initial_state` must be {expected}. "
            f"Received: initial_state of dtype {tensor.dtype.name}"
        )
    if tensor.shape.rank is None:
        raise ValueError(
            "`initial_state` must have a known rank; set it with "
            f"`tf.ensure_shape`. Received: initial_state={tensor}"
        )
    return tensor
