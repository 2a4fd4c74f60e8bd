"""One differentiable solve."""

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from keras_node import adjoints, solvers
from keras_node.adjoints.adjoint import Problem
from keras_node.dynamics import as_ode_fn
from keras_node.solvers import failure
from keras_node.solvers.solver import Solver, flat_ode_fn, widen


def odeint(dynamics, initial_state, times, solver="tsit5", adjoint="auto"):
    """Solves an initial value problem, differentiably.

    Solves `dy/dt = f(t, y)`, `y(times[0]) = initial_state`, and returns `y`
    at each of `times`. The gradient flows to the initial state, to `times` if
    it is a tensor, to every trainable variable that `dynamics` uses, and to
    every float tensor that it closes over.

    Args:
        dynamics: The vector field `f`: a callable `f(t, y)`; a Keras layer or
            model of `(t, y)`, or of `y` alone. It returns the derivative, in
            the structure, shapes and dtypes of the state. `t` is a scalar in
            the dtype of the state, or `(batch,)` with per-sample steps.
        initial_state: Float tensor or nested structure of them; half
            precision is solved in float32.
        times: 1-D floats in any unit, at least two, strictly increasing or
            strictly decreasing; the first is the time of `initial_state`.
            With per-sample clocks `(batch, T)`.
        solver: Solver identifier, see `keras_node.solvers.get`. Default
            `"tsit5"`.
        adjoint: Adjoint identifier, see `keras_node.adjoints.get`. Default
            `"auto"`: exact gradients where the solver allows it.

    Returns:
        `tfp.math.ode.Results`: `times` in float64; `states`, time-major, one
        entry for each of `times`, the first being the initial state;
        `diagnostics` (`keras_node.solvers.Diagnostics`); and
        `solver_internal_state`.

    Raises:
        ValueError: If `times` is not monotonic, the derivative does not match
            the state, or adjoint and solver do not fit.
        TypeError: If the state is not float, or `dynamics` is not callable.
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
    return solve(_converted(dynamics), initial_state, times, solver, adjoint)


def _converted(dynamics):
    """Lets AutoGraph see a user's function, where it is on, but not ours."""
    if isinstance(dynamics, keras.layers.Layer) or not callable(dynamics):
        return dynamics
    autograph = tf.__internal__.autograph
    return autograph.tf_convert(
        dynamics, autograph.control_status_ctx(), convert_by_default=False
    )


@tf.autograph.experimental.do_not_convert
def solve(
    dynamics,
    initial_state,
    times,
    solver="tsit5",
    adjoint="auto",
    on_backward=None,
):
    """Does what `odeint` says, and reports the NFE of the backward pass.

    Args:
        on_backward: Callable of an integer tensor, called in each backward
            pass with its number of function evaluations; or `None`.
    """
    solver = solvers.get(solver)
    adjoint = adjoints.get(adjoint)
    ode_fn = as_ode_fn(dynamics)
    initial_state = tf.nest.map_structure(_as_float_tensor, initial_state)
    leaves = tf.nest.flatten(initial_state)
    times_vary = tf.is_tensor(times) or isinstance(times, tf.Variable)
    times = _as_clock(times, solver, leaves)
    captures = trace(ode_fn, times.shape[1:], initial_state)
    result = adjoint.solve(
        Problem(
            solver=solver,
            ode_fn=flat_ode_fn(ode_fn, initial_state),
            times=times,
            y=widen(leaves),
            captures=captures,
            times_vary=times_vary,
            on_backward=on_backward,
        )
    )
    states = [
        tf.cast(state, leaf.dtype)
        for state, leaf in zip(
            failure.check(solver, result), leaves, strict=True
        )
    ]
    return tfp.math.ode.Results(
        times=times,
        states=tf.nest.pack_sequence_as(initial_state, states),
        diagnostics=result.diagnostics,
        solver_internal_state=result.internal,
    )


def as_static_times(times):
    """Returns times known beforehand as a tuple of floats.

    Raises:
        ValueError: If they are not 1-D and strictly monotonic.
    """
    try:
        array = np.asarray(times, dtype=np.float64)
    except (TypeError, ValueError):
        _raise_times(times)
    if array.ndim != 1:
        _raise_times(times)
    return tuple(_checked(array).tolist())


def trace(ode_fn, t_shape, state):
    """Traces dynamics once: checks its result and finds what it closes over.

    Args:
        ode_fn: Callable `(t, state) -> derivative`.
        t_shape: Shape of the time, `()` or `(batch,)`.
        state: Nested structure of float tensors, or of their `TensorSpec`s.

    Returns:
        The float tensors that it closes over: constants of the solve to which
        gradients flow.

    Raises:
        ValueError: If the derivative does not match the state.
    """
    graph = tf.__internal__.FuncGraph("dynamics")
    with graph.as_default():
        inputs = tf.nest.map_structure(
            lambda leaf: tf.compat.v1.placeholder(leaf.dtype, leaf.shape),
            state,
        )
        first = tf.nest.flatten(state)[0]
        t = tf.compat.v1.placeholder(first.dtype, t_shape)
        derivative = ode_fn(t, inputs)
        _check_structure(derivative, state)
        derivative = tf.nest.map_structure(tf.convert_to_tensor, derivative)
    _check_derivative(derivative, state)
    return [
        tensor for tensor in graph.external_captures if tensor.dtype.is_floating
    ]


def _as_float_tensor(value):
    tensor = tf.convert_to_tensor(value)
    if not tensor.dtype.is_floating:
        raise TypeError(
            "`initial_state` must be a float tensor or a nested structure of "
            "them; write 1.0 instead of 1, or cast it. "
            f"Received: initial_state of dtype {tensor.dtype.name}"
        )
    if tensor.shape.rank is None:
        raise ValueError(
            "`initial_state` must have a known rank; set it with "
            f"`tf.ensure_shape`. Received: initial_state={tensor}"
        )
    return tensor


def _as_clock(times, solver, leaves):
    """Returns float64 times, time-major, with the lanes of the solve."""
    if isinstance(times, tf.Variable):
        times = tf.convert_to_tensor(times)
    if tf.is_tensor(times):
        _check_shape(times.shape, times, solver, leaves)
        times = tf.cast(_assert_monotonic(times), tf.float64)
    else:
        times = tf.constant(_checked(np.asarray(times)), tf.float64)
        _check_shape(times.shape, times, solver, leaves)
    if times.shape.rank == 2:
        times = tf.transpose(times)
    elif isinstance(solver, Solver):
        times = solver.clock(times, leaves)
    return times


def _assert_monotonic(times):
    """Returns `times`, checked when they are known; XLA checks nothing."""
    if tf.executing_eagerly():
        _checked(times.numpy())
        return times
    directions = tf.sign(times[..., 1:] - times[..., :-1])
    agreement = tf.abs(tf.reduce_sum(directions))
    is_monotonic = tf.equal(
        agreement, tf.cast(tf.size(directions), times.dtype)
    )
    is_finite = tf.reduce_all(tf.math.is_finite(tf.cast(times, tf.float64)))
    assertion = tf.debugging.Assert(
        is_monotonic & is_finite,
        [
            "`times` must be strictly increasing or strictly decreasing, for "
            "every sample in the same direction. Received: times=",
            times,
        ],
    )
    with tf.control_dependencies([assertion]):
        return tf.identity(times)


def _checked(times):
    """Returns static times, if they are strictly monotonic."""
    if times.dtype.kind not in "iuf" or times.ndim not in (1, 2):
        _raise_times(times)
    if not np.isfinite(times).all():
        _raise_times(times)
    steps = np.diff(times.astype(np.float64), axis=-1)
    is_monotonic = (steps > 0).all() or (steps < 0).all()
    if times.shape[-1] < 2 or not is_monotonic:
        _raise_times(times)
    return times


def _raise_times(times):
    raise ValueError(
        "`times` must hold at least two floats, strictly increasing or "
        "strictly decreasing, the first being the time of the initial state; "
        "or, with a clock for each sample, a row of them for each, all in the "
        f"same direction. Received: times={times}"
    )


def _check_shape(shape, times, solver, leaves):
    if shape.rank not in (1, 2) or (shape[-1] is not None and shape[-1] < 2):
        _raise_times(times)
    has_lanes = shape.rank == 2 or getattr(solver, "per_sample_steps", False)
    if not has_lanes:
        return
    if not isinstance(solver, Solver):
        raise ValueError(
            "A clock for each sample needs a Runge-Kutta solver of "
            "keras_node. Pass `times` of shape (T,), or another solver. "
            f"Received: solver={type(solver).__name__}, times of shape {shape}"
        )
    if any(leaf.shape.rank == 0 for leaf in leaves):
        raise ValueError(
            "A clock for each sample needs a state whose first axis is the "
            "batch, in every part. Received: a scalar state"
        )
    batches = [leaf.shape[0] for leaf in leaves]
    if shape.rank == 2:
        batches.append(shape[0])
    if len({batch for batch in batches if batch is not None}) > 1:
        raise ValueError(
            "A clock for each sample needs `times` of shape (batch, T) and "
            "the same batch in every part of the state. Received: times of "
            f"shape {shape}, state of shapes {[leaf.shape for leaf in leaves]}"
        )


def _check_structure(derivative, state):
    hint = ""
    if any(leaf is None for leaf in tf.nest.flatten(derivative)):
        hint = " Is a `return` missing?"
    else:
        try:
            return tf.nest.assert_same_structure(state, derivative)
        except (TypeError, ValueError):
            pass
    raise ValueError(
        "The dynamics must return a derivative of the state's structure."
        f"{hint} Received: derivative={derivative}, state={state}"
    )


def _check_derivative(derivative, state):
    pairs = zip(
        tf.nest.flatten(derivative), tf.nest.flatten(state), strict=True
    )
    for slope, leaf in pairs:
        if _solved_dtype(slope) != _solved_dtype(leaf):
            raise ValueError(
                "The dynamics must return a derivative of the state's dtype. "
                f"Received: derivative of dtype {slope.dtype.name}, state of "
                f"dtype {leaf.dtype.name}"
            )
        if not _is_same_shape(slope.shape, leaf.shape):
            raise ValueError(
                "The dynamics must return a derivative of the state's shape; "
                "end it with a layer that has as many units or filters as "
                f"the state. Received: derivative of shape {slope.shape}, "
                f"state of shape {leaf.shape}"
            )


def _solved_dtype(leaf):
    """Half precision is solved in float32."""
    return tf.float32 if leaf.dtype.size < 4 else leaf.dtype


def _is_same_shape(shape, expected):
    # Only as many axes as both know; a state (None, 2) and (3, 2) agree.
    return shape.rank is None or (
        shape.rank == expected.rank and shape.is_compatible_with(expected)
    )
