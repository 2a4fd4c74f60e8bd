"""Checks of the times at which dynamics jump, and their conversion."""

import numpy as np
import tensorflow as tf

from keras_node.common.state import as_float64, holds_tensor
from keras_node.solvers import pieces
from keras_node.solvers.base import Solver


def as_static_jumps(jump_times):
    """Returns jumps known beforehand as a tuple of floats, or `None`.

    Raises:
        ValueError: If they are not 1-D.
    """
    if jump_times is None:
        return None
    array = _as_array(jump_times)
    if array.ndim != 1:
        _raise_shape(array)
    return tuple(array.tolist())


def as_jumps(jump_times, times, solver, leaves):
    """Returns the times of a solve with the clocks of its jumps, and these.

    Args:
        jump_times: As in `odeint`.
        times: Float64 `(T,)` or `(T, batch)`.
        solver: `tfp.math.ode.Solver`.
        leaves: List of float tensors, the state.

    Returns:
        `(times, jumps)`, the latter as `pieces.sorted_jumps` returns them.

    Raises:
        ValueError: If the jumps do not fit the solve.
    """
    _check_support(solver, leaves)
    if not holds_tensor(jump_times):
        jump_times = _as_array(jump_times)
    jump_times = as_float64(jump_times)
    if jump_times.shape.rank not in (1, 2):
        _raise_shape(jump_times)
    if jump_times.shape.rank == 2:
        batches = [leaf.shape[:1] for leaf in leaves if leaf.shape.rank]
        rows = jump_times.shape[:1]
        is_batch = len(batches) == len(leaves)
        if not is_batch or not all(map(rows.is_compatible_with, batches)):
            _raise_shape(jump_times, leaves)
        jump_times = tf.transpose(jump_times)
        if times.shape.rank == 1:
            size = tf.shape(leaves[0])[0]
            times = tf.tile(times[:, None], [1, size])
    return times, pieces.sorted_jumps(jump_times, times)


def _as_array(jump_times):
    # TensorFlow would read Python floats as float32.
    try:
        return np.asarray(jump_times, np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(
            "`jump_times` must be floats of shape (J,) or (batch, J). "
            f"Received: jump_times={jump_times!r}"
        ) from error


def _check_support(solver, leaves):
    if not isinstance(solver, Solver):
        raise ValueError(
            "`jump_times` need a solver of keras_node, whose steps end at "
            f"them. Received: solver={type(solver).__name__}"
        )
    if leaves[0].dtype.size < 4:
        raise ValueError(
            "`jump_times` need a float32 or float64 state: dynamics get the "
            "time in its dtype, and half precision cannot tell the two sides "
            f"of a jump apart. Received: state of dtype {leaves[0].dtype.name}"
        )


def _raise_shape(jump_times, leaves=None):
    state = ""
    if leaves is not None:
        state = f", state of shapes {[leaf.shape for leaf in leaves]}"
    raise ValueError(
        "`jump_times` must be floats of shape (J,), or (batch, J) with the "
        "batch of the state, padded with NaN. Received: jump_times of shape "
        f"{np.shape(jump_times)}{state}"
    )
