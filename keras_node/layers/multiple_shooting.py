"""Multiple shooting: long trajectories, solved in segments."""

import keras
import numpy as np
import tensorflow as tf

from keras_node.common.arguments import is_positive_integer
from keras_node.common.conversion import as_tensor
from keras_node.integration.solve import odeint
from keras_node.layers.ode_layer import ODELayer


def multiple_shooting(
    layer_or_dynamics,
    states,
    times,
    num_segments,
    continuity="mean_squared_error",
    initial_states=None,
    **options,
):
    """Predicts a trajectory in segments, each from its own initial state.

    The fit of one long solve has local minima, of which the mean of the data
    is one: a phase that is a little wrong costs as much as one that is all
    wrong, and the gradient of chaotic dynamics explodes. Segments are short,
    and a penalty joins them:

        loss(predictions, states) + weight * penalty

    Segments are samples of one batch: a long trajectory in ten segments takes
    the steps of one of them. All have the same number of times; if they cannot
    divide the trajectory evenly, some overlap.

    Args:
        layer_or_dynamics: `ODELayer` with `return_sequences=True`; or dynamics
            as in `odeint`.
        states: Float tensor `(batch, T, ...)`, the observed states.
        times: Floats `(T,)`, or `(batch, T)` with a clock for each sample.
        num_segments: Integer between 1 and `T - 1`.
        continuity: Keras loss identifier, the distance between the end of a
            segment and the initial state of the next. Default
            `"mean_squared_error"`.
        initial_states: Float tensor `(batch, num_segments, ...)`, such as a
            variable, to learn them where states are noisy. Default `None`: the
            observed states.
        **options: `solver`, `adjoint` and others of `odeint`, for dynamics.

    Returns:
        `(predictions, penalty)`: `(batch, T, ...)`, at the first time of a
        segment its initial state; and a scalar, 0 for one segment.

    Raises:
        ValueError: If a shape or `num_segments` does not fit, or the layer
            returns no sequences.

    Example:
    >>> times = np.linspace(0.0, 1.0, 11)
    >>> states = np.exp(-times)[None, :, None]
    >>> predictions, penalty = keras_node.multiple_shooting(
    ...     lambda t, y: -y, states, times, num_segments=4
    ... )
    >>> predictions.shape
    TensorShape([1, 11, 1])

    Reference:
    - [Bock & Plitt, 1984](https://doi.org/10.1016/S1474-6670(17)61205-9)
    """
    states = as_tensor(states, "states", "floats (batch, T, ...)")
    if not tf.is_tensor(times):
        times = tf.constant(np.asarray(times, np.float64))
    num_times = _check(states, times, num_segments, layer_or_dynamics)
    starts, rows = _segments(num_times, num_segments)
    if initial_states is None:
        initial_states = tf.gather(states, starts, axis=1)
    _check_initial(initial_states, states, num_segments)
    grid = tf.gather(times, rows, axis=-1)
    if times.shape.rank == 1:
        grid = tf.tile(grid[None], [tf.shape(states)[0], 1, 1])
    predictions = _split(
        _solve(
            layer_or_dynamics,
            _merge(initial_states),
            _merge(grid),
            options,
        ),
        num_segments,
    )
    penalty = _penalty(predictions, initial_states, starts, continuity)
    return _joined(predictions, starts, num_times), penalty


def _segments(num_times, num_segments):
    """Returns the first row of each segment, and all of their rows."""
    length = -(-(num_times - 1) // num_segments)
    starts = np.linspace(0, num_times - 1 - length, num_segments).astype(int)
    return starts, starts[:, None] + np.arange(length + 1)


def _solve(layer_or_dynamics, y0, times, options):
    """Returns the states of a batch of segments, `(segments, T, ...)`."""
    if isinstance(layer_or_dynamics, ODELayer):
        return layer_or_dynamics(y0, times=times, **options)
    results = odeint(layer_or_dynamics, y0, times, **options)
    states = results.states
    return tf.transpose(states, [1, 0, *range(2, states.shape.rank)])


def _penalty(predictions, initial_states, starts, continuity):
    """Returns the mean distance of segments' ends and others' starts."""
    if len(starts) == 1:
        return tf.zeros([], predictions.dtype)
    loss = keras.losses.get(continuity)
    ends = tf.stack(
        [predictions[:, i, gap] for i, gap in enumerate(np.diff(starts))],
        axis=1,
    )
    return tf.reduce_mean(loss(initial_states[:, 1:], ends))


def _joined(predictions, starts, num_times):
    """Returns the predictions at each time once, of the later segment."""
    own = np.append(np.diff(starts), num_times - starts[-1])
    rows = [predictions[:, i, :count] for i, count in enumerate(own)]
    return tf.concat(rows, axis=1)


def _merge(segments):
    """Makes the axes of samples and of segments one."""
    shape = tf.shape(segments)
    merged = tf.reshape(
        segments, tf.concat([[shape[0] * shape[1]], shape[2:]], axis=0)
    )
    return tf.ensure_shape(merged, [None, *segments.shape[2:]])


def _split(samples, num_segments):
    """Undoes `_merge`."""
    shape = tf.concat([[-1, num_segments], tf.shape(samples)[1:]], axis=0)
    split = tf.reshape(samples, shape)
    return tf.ensure_shape(split, [None, num_segments, *samples.shape[1:]])


def _check(states, times, num_segments, layer_or_dynamics):
    """Returns the number of times."""
    num_times = times.shape[-1]
    fits = times.shape.rank in (1, 2) and states.shape.rank >= 2
    if not fits or num_times is None or states.shape[1] != num_times:
        raise ValueError(
            "`states` must have the shape (batch, T, ...), and `times` (T,) or "
            f"(batch, T), T being known. Received: states of shape "
            f"{states.shape}, times of shape {times.shape}"
        )
    if not is_positive_integer(num_segments) or num_segments >= num_times:
        raise ValueError(
            "`num_segments` must be an integer between 1 and T - 1 = "
            f"{num_times - 1}. Received: num_segments={num_segments!r}"
        )
    returns_last = isinstance(layer_or_dynamics, ODELayer) and (
        not layer_or_dynamics.return_sequences
    )
    if returns_last:
        raise ValueError(
            "`multiple_shooting` needs the state at every time. Make the layer "
            "with `return_sequences=True`. Received: return_sequences=False"
        )
    return num_times


def _check_initial(initial_states, states, num_segments):
    expected = tf.TensorShape(
        [states.shape[0], num_segments, *states.shape[2:]]
    )
    if not expected.is_compatible_with(initial_states.shape):
        raise ValueError(
            f"`initial_states` must have the shape {expected}. Received: "
            f"initial_states of shape {initial_states.shape}"
        )
