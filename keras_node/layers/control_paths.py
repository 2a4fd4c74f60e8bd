"""Control paths: what drives a neural CDE, on the clock of its solve.

The solution of `dz = f(z) dX` does not depend on the speed at which the path
`X` is run through. So each path gets the clock on which it is solved best.
"""

import typing

import tensorflow as tf
import tensorflow_probability as tfp

from keras_node import interpolation

SMOOTH = {
    "hermite": interpolation.hermite,
    "natural_cubic": interpolation.natural_cubic,
}
PIECEWISE = ("linear", "rectilinear")


class Control(typing.NamedTuple):
    """A path of time, values and counts, `(batch, channels)`.

    Attributes:
        initial: Tensor `(batch, channels)`, its first point.
        derivative: Callable of the solve's time, `()` or `(batch,)`, that
            returns `dX/dt` there, `(batch, channels)`.
        times: Float64 `(T + 1,)` or `(batch, T + 1)`, the solve's time at each
            observation, and once more the last.
        jump_times: Float64 `(J,)`, where the derivative jumps; or `None`.
    """

    initial: tf.Tensor
    derivative: typing.Callable
    times: tf.Tensor
    jump_times: tf.Tensor | None


class _Channels(typing.NamedTuple):
    """The channels of a path at the observations.

    Attributes:
        times: Float64 `(batch, T + 1)`, where nothing is observed that of the
            observation before.
        values: Float `(batch, T + 1, channels)`.
        mask: Boolean, the same, what is known.
    """

    times: tf.Tensor
    values: tf.Tensor
    mask: tf.Tensor


def num_channels(num_features, counts_observations):
    """Returns the number of channels of a path."""
    return 1 + num_features * (1 + counts_observations)


def control_of(observed, kind, counts_observations):
    """Returns the `Control` of a batch of time series.

    Args:
        observed: `Observations`.
        kind: String, the interpolation.
        counts_observations: Boolean, whether how often each feature has been
            observed is one more channel.
    """
    channels = _channels_of(observed, counts_observations)
    if kind in SMOOTH:
        return _smooth(SMOOTH[kind], channels)
    if kind == "linear":
        path = interpolation.linear(*channels)
        return _piecewise(path(channels.times), 1)
    return _piecewise(_staircase(channels), 2)


def _channels_of(observed, counts_observations):
    """Returns the `_Channels`: time, values and, if asked for, counts."""
    times = observed.own_times(0.0)
    dtype = observed.values.dtype
    seen = observed.observed[..., None]
    parts = [tf.cast(times, dtype)[..., None], observed.values]
    masks = [seen, observed.mask]
    if counts_observations:
        parts.append(tf.cumsum(tf.cast(observed.mask, dtype), axis=1))
        masks.append(tf.broadcast_to(seen, tf.shape(observed.mask)))
    # One row more, at which nothing is observed: a path has two at least.
    return _Channels(
        times=tf.concat([times, times[:, -1:]], axis=1),
        values=_with_row(tf.concat(parts, axis=-1), repeat=True),
        mask=_with_row(tf.concat(masks, axis=-1), repeat=False),
    )


def _with_row(values, repeat):
    last = values[:, -1:]
    return tf.concat([values, last if repeat else tf.zeros_like(last)], axis=1)


def _smooth(interpolate, channels):
    """A path with a continuous derivative, from 0 to 1 of the solve's time."""
    path = interpolate(*channels)
    first = channels.times[:, 0]
    span = channels.times[:, -1] - first

    def derivative(t):
        slope = path.derivative(first + tf.cast(t, tf.float64) * span)
        return tf.cast(span, slope.dtype)[:, None] * slope

    times = channels.times - first[:, None]
    return Control(
        initial=path(first),
        derivative=derivative,
        times=tf.math.divide_no_nan(times, span[:, None]),
        jump_times=None,
    )


def _piecewise(points, pieces_between):
    """Straight lines between points, each in one unit of the solve's time.

    Args:
        points: Float `(batch, K, channels)`.
        pieces_between: Integer, lines from one observation to the next.
    """
    slopes = points[:, 1:] - points[:, :-1]
    count = tf.shape(slopes)[1]

    def derivative(t):
        k = tf.clip_by_value(tf.cast(tf.floor(t), tf.int32), 0, count - 1)
        return tf.gather(slopes, k, axis=1, batch_dims=t.shape.rank)

    return Control(
        initial=points[:, 0],
        derivative=derivative,
        times=tf.cast(tf.range(0, count + 1, pieces_between), tf.float64),
        jump_times=tf.cast(tf.range(1, count), tf.float64),
    )


def _staircase(channels):
    """Returns the corners of the path on which time and values take turns.

    Between two observations first the time goes on, then the values change:
    `(batch, 2 T + 1, channels)`. A feature that has not been observed yet is 0.
    """
    times, values, mask = channels
    rows = tf.range(tf.shape(mask)[1])[:, None]
    last = tfp.math.scan_associative(
        tf.maximum, tf.where(mask, rows, -1), axis=1
    )
    known = tf.gather(
        tf.transpose(values, [0, 2, 1]),
        tf.transpose(tf.maximum(last, 0), [0, 2, 1]),
        batch_dims=2,
    )
    known = tf.transpose(known, [0, 2, 1])
    known = tf.where(last >= 0, known, tf.zeros_like(known))[..., 1:]
    time = tf.cast(times, values.dtype)[..., None]
    corners = tf.concat([time, known], axis=-1)
    turns = tf.concat([time[:, 1:], known[:, :-1]], axis=-1)
    pairs = tf.stack([corners[:, :-1], turns], axis=2)
    shape = tf.shape(pairs)
    flat = tf.reshape(pairs, [shape[0], 2 * shape[1], values.shape[-1]])
    return tf.concat([flat, corners[:, -1:]], axis=1)
