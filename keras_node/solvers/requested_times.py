"""Checks of the times of a solve, and their conversion to clocks."""

import warnings

import keras
import ml_dtypes
import numpy as np
import tensorflow as tf

from keras_node.common.state import as_float64, holds_tensor
from keras_node.solvers.base import Solver

# The largest rounding of time allowed, as a share of the time from first to
# last.
_MAX_ROUNDING = 1e-3


def as_static_times(times):
    """Returns times known beforehand as a tuple of floats.

    Raises:
        ValueError: If they are not 1-D and strictly monotonic, or hold a
            variable, whose changes they would not follow.
    """
    if any(map(_is_variable, tf.nest.flatten(times))):
        raise ValueError(
            "`times` of a layer are constants. Give times that change, or "
            "that need a gradient, to the call of an `ODELayer`, "
            "`layer(x, times=tf.stack([0.0, end]))`, or to `odeint`. "
            f"Received: times={times}"
        )
    try:
        array = np.asarray(times, dtype=np.float64)
    except (OverflowError, TypeError, ValueError):
        _raise_times(times)
    if array.ndim != 1:
        _raise_times(times)
    return tuple(_checked(array).tolist())


def t_shape(solver, *shapes, events=()):
    """Returns the shape of the time that dynamics get, `()` or `(None,)`.

    Args:
        solver: `tfp.math.ode.Solver`.
        *shapes: Shapes of the times and jumps that are inputs of the layer;
            `None` for those that are not.
        events: List of events, which need a clock for each sample.
    """
    has_clocks = bool(events) or any(
        shape is not None and len(shape) == 2 for shape in shapes
    )
    has_clocks |= getattr(solver, "per_sample_steps", False)
    return (None,) if has_clocks else ()


def as_clock(times, solver, leaves, are_sorted=False):
    """Returns float64 times, time-major, with the clocks of the solve.

    Args:
        times: As in `odeint`.
        solver: `tfp.math.ode.Solver`.
        leaves: List of float tensors, the state.
        are_sorted: Whether the caller has sorted `times`, a tensor in which
            neighbours may then be equal.
    """
    if holds_tensor(times):
        times = _as_tensor(times)
        _check_shape(times.shape, times, solver, leaves)
        times = times if are_sorted else _assert_monotonic(times)
        times = tf.cast(times, tf.float64)
    else:
        times = tf.constant(_checked(_as_array(times)), tf.float64)
        _check_shape(times.shape, times, solver, leaves)
    if times.shape.rank == 2:
        times = tf.transpose(times)
    elif isinstance(solver, Solver):
        times = solver.clock(times, leaves)
    return times


def check_resolution(times, dtype):
    """Warns if dynamics cannot tell the times of a solve apart.

    The clock is float64, but dynamics get the time in their own dtype: around
    1e6 the next float32 is 0.06 away, and Unix seconds are two minutes apart.
    Times that are known only when a graph runs are not checked.

    Args:
        times: Float64 `(T,)` or `(T, batch)`, as `as_clock` returns them.
        dtype: The dtype in which the dynamics get the time.
    """
    times = tf.get_static_value(times)
    if times is None or not times.size:
        return
    dtype = tf.as_dtype(dtype)
    first, last = times[0], times[-1]
    spans = np.abs(last - first)
    # A clock may have an interval of length 0.
    spans = np.where(spans > 0, spans, np.inf)
    largest = np.maximum(np.abs(first), np.abs(last))
    epsilon = float(ml_dtypes.finfo(dtype.as_numpy_dtype).eps)
    share = np.max(epsilon * largest / spans)
    # Half precision can never tell a thousand times apart.
    if share <= max(_MAX_ROUNDING, 4 * epsilon):
        return
    message = (
        f"The dynamics get the time in {dtype.name}, which at so large an "
        f"offset only resolves {share:.0e} of the time from first to last. "
        "Subtract the first time from `times` (and add it back in the "
        "dynamics where they need it), or solve a float64 state. Received: "
        f"times from {first.ravel()[0]} to {last.ravel()[0]}"
    )
    warnings.warn(message, stacklevel=2)


def _assert_monotonic(times):
    """Returns `times`, checked once they are known; XLA checks nothing."""
    if not times.dtype.is_floating and not times.dtype.is_integer:
        _raise_times(times)
    # NumPy does not know all dtypes of TensorFlow.
    times = tf.cast(times, tf.float64)
    if tf.executing_eagerly():
        _checked(times.numpy())
        return times
    directions = tf.sign(times[..., 1:] - times[..., :-1])
    is_monotonic = tf.reduce_all(directions * directions[..., :1] > 0)
    is_finite = tf.reduce_all(tf.math.is_finite(times))
    is_enough = tf.shape(times)[-1] >= 2
    assertion = tf.debugging.Assert(
        is_monotonic & is_finite & is_enough,
        [
            "`times` must hold at least two floats, strictly increasing or "
            "strictly decreasing. Received: times=",
            times,
        ],
    )
    with tf.control_dependencies([assertion]):
        return tf.identity(times)


def _is_variable(time):
    return isinstance(time, (tf.Variable, keras.Variable))


def _as_tensor(times):
    """Returns times that are a tensor or variable, or a list with some."""
    if tf.is_tensor(times):
        return tf.convert_to_tensor(times)
    try:
        return as_float64(times)
    except (TypeError, ValueError, tf.errors.OpError):
        _raise_times(times)


def _as_array(times):
    try:
        array = np.asarray(times)
    except (TypeError, ValueError):
        # Rows of different lengths, or a symbolic tensor of Keras.
        _raise_times(times)
    # NumPy does not count bfloat16 among the kinds of numbers.
    is_bfloat16 = array.dtype == tf.bfloat16.as_numpy_dtype
    return array.astype(np.float64) if is_bfloat16 else array


def _checked(times):
    """Returns static times, if they are strictly monotonic."""
    if times.dtype.kind not in "iuf" or times.ndim not in (1, 2):
        _raise_times(times)
    if not np.isfinite(times).all() or times.shape[-1] < 2:
        _raise_times(times)
    steps = np.diff(times.astype(np.float64), axis=-1)
    rises, falls = (steps > 0).all(axis=-1), (steps < 0).all(axis=-1)
    if not (rises | falls).all():
        _raise_times(times)
    return times


def _raise_times(times):
    raise ValueError(
        "`times` must hold at least two floats, strictly increasing or "
        "strictly decreasing, the first being the time of the initial state; "
        "or, with a clock for each sample, such a row for each sample, in "
        f"either direction. Received: times={times}"
    )


def _check_shape(shape, times, solver, leaves):
    if shape.rank not in (1, 2) or (shape[-1] is not None and shape[-1] < 2):
        _raise_times(times)
    has_clocks = shape.rank == 2 or getattr(solver, "per_sample_steps", False)
    if not has_clocks:
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
