"""Control paths: what drives a neural CDE, on the clock of its solve.

The solution of `dz = f(z) dX` does not depend on the speed at which the path
`X` is run through. So each takes one unit of the solve's time from one row of
the data to the next, whatever the times of the rows: all samples share a clock,
whose steps end at the rows, and none steps over an observation.
"""

import typing

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from keras_node import interpolation

INTERPOLATIONS = ("hermite", "natural_cubic", "linear", "rectilinear")


class Control(typing.NamedTuple):
    """A path of time, values and more, in pieces of one unit each.

    The channels are time, the features, and what is asked for of the counts of
    observations and the integrals of the features.

    Attributes:
        initial: Float `(batch, channels)`, its first point.
        slopes: Float `(batch, K, P, channels)`, `dX/dt` of each piece by the
            powers of the time since its start.
        pieces_per_row: Integer, pieces from one row of the data to the next.
    """

    initial: tf.Tensor
    slopes: tf.Tensor
    pieces_per_row: int

    def derivative(self, t):
        """Returns `dX/dt`, `(batch, channels)`, at `t`, `()` or `(batch,)`."""
        last = tf.shape(self.slopes)[1] - 1
        k = tf.clip_by_value(tf.cast(tf.floor(t), tf.int32), 0, last)
        piece = tf.gather(self.slopes, k, axis=1, batch_dims=t.shape.rank)
        powers = tf.unstack(piece, num=self.slopes.shape[2], axis=1)
        share = tf.cast(t - tf.cast(k, t.dtype), piece.dtype)
        share = tf.reshape(share, [-1, 1])
        slope = powers[-1]
        for power in powers[-2::-1]:
            slope = slope * share + power
        return slope

    @property
    def times(self):
        """The solve's time at each row of the data, and at the end."""
        count = tf.shape(self.slopes)[1]
        rows = tf.range(0, count + 1, self.pieces_per_row)
        return tf.cast(rows, tf.float64)

    @property
    def jump_times(self):
        """The times within at which the derivative jumps."""
        return tf.cast(tf.range(1, tf.shape(self.slopes)[1]), tf.float64)


class _Channels(typing.NamedTuple):
    """The channels of a path at the rows of the data, and one row more.

    Attributes:
        times: Float64 `(batch, T + 1)`, where nothing is observed that of the
            observation before.
        values: Float `(batch, T + 1, channels)`.
        mask: Boolean, the same, what is known.
    """

    times: tf.Tensor
    values: tf.Tensor
    mask: tf.Tensor


def num_channels(num_features, counts_observations, integrates_values):
    """Returns the number of channels of a path."""
    return 1 + num_features * (1 + counts_observations + integrates_values)


def control_of(observed, kind, counts_observations, integrates_values):
    """Returns the `Control` of a batch of time series.

    Args:
        observed: `Observations`.
        kind: String, one of `INTERPOLATIONS`.
        counts_observations: Boolean, whether how often each feature has been
            observed is one more channel.
        integrates_values: Boolean, whether the integral of each feature over
            time is one more channel.
    """
    control = _control_of(_channels_of(observed, counts_observations), kind)
    if not integrates_values:
        return control
    return _with_integrals(control, observed.values.shape[-1])


def _control_of(channels, kind):
    if kind == "rectilinear":
        return _lines(_corners(channels), 2)
    path = getattr(interpolation, kind)(*channels)
    if kind == "linear":
        return _lines(path(channels.times), 1)
    return Control(
        initial=path(channels.times[:, 0]),
        slopes=_quadratics(path, channels.times),
        pieces_per_row=1,
    )


def _with_integrals(control, num_features):
    """Returns a path with the integrals of its features over time.

    Within a piece time is linear, so that `X dt` is a polynomial of one power
    more than `dX`.
    """
    initial, slopes = control.initial, control.slopes
    features = slice(1, 1 + num_features)
    powers = tf.range(1, slopes.shape[2] + 1, dtype=slopes.dtype)
    rises = slopes[..., features] / powers[:, None]
    starts = tf.cumsum(tf.reduce_sum(rises, axis=2), axis=1, exclusive=True)
    starts += initial[:, None, features]
    levels = tf.concat([starts[:, :, None], rises], axis=2)
    integrals = slopes[:, :, :1, :1] * levels
    slopes = tf.pad(slopes, [[0, 0], [0, 0], [0, 1], [0, 0]])
    return control._replace(
        initial=tf.pad(initial, [[0, 0], [0, num_features]]),
        slopes=tf.concat([slopes, integrals], axis=-1),
    )


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
    values, mask = tf.concat(parts, axis=-1), tf.concat(masks, axis=-1)
    nothing = tf.zeros_like(mask[:, -1:])
    return _Channels(
        times=tf.concat([times, times[:, -1:]], axis=1),
        values=tf.concat([values, values[:, -1:]], axis=1),
        mask=tf.concat([mask, nothing], axis=1),
    )


def _lines(points, pieces_per_row):
    """Returns the path of straight lines between points `(batch, K, C)`."""
    rises = points[:, 1:] - points[:, :-1]
    return Control(points[:, 0], rises[:, :, None], pieces_per_row)


def _quadratics(path, times):
    """Returns the derivatives of a cubic path between rows, by powers.

    Channels are observed at rows of their own, but between any two all of them
    are cubic: the derivative is the quadratic through three of its values.
    """
    starts, lengths = times[:, :-1], times[:, 1:] - times[:, :-1]
    shares = np.array([0.25, 0.5, 0.75])
    nodes = starts[..., None] + lengths[..., None] * shares
    shape = tf.shape(starts)
    values = path.derivative(tf.reshape(nodes, [shape[0], 3 * shape[1]]))
    values = tf.reshape(values, [shape[0], shape[1], 3, values.shape[-1]])
    powers = np.linalg.inv(np.vander(shares, increasing=True))
    slopes = tf.einsum("pn,btnc->btpc", tf.cast(powers, values.dtype), values)
    return slopes * tf.cast(lengths, slopes.dtype)[..., None, None]


def _corners(channels):
    """Returns the corners of the path on which time and values take turns.

    Between two rows first the time goes on, then the values change:
    `(batch, 2 T + 1, channels)`. A feature that has not been observed yet is 0.
    """
    times, values, mask = channels
    rows = tf.range(tf.shape(mask)[1])[:, None]
    last = tfp.math.scan_associative(
        tf.maximum, tf.where(mask, rows, -1), axis=1
    )
    # The path begins at the first row with an observation.
    is_any = tf.reduce_any(mask, axis=-1)
    first = tf.argmax(tf.cast(is_any, tf.int32), axis=1, output_type=tf.int32)
    begun = tf.maximum(rows[:, 0], first[:, None])
    last = tf.gather(last, begun, batch_dims=1)
    known = tf.gather(
        tf.transpose(values, [0, 2, 1]),
        tf.transpose(tf.maximum(last, 0), [0, 2, 1]),
        batch_dims=2,
    )
    known = tf.transpose(known, [0, 2, 1])
    known = tf.where(last >= 0, known, tf.zeros_like(known))[..., 1:]
    time = tf.cast(times, values.dtype)[..., None]
    after = tf.concat([time, known], axis=-1)
    between = tf.concat([time[:, 1:], known[:, :-1]], axis=-1)
    pairs = tf.stack([after[:, :-1], between], axis=2)
    shape = tf.shape(pairs)
    flat = tf.reshape(pairs, [shape[0], 2 * shape[1], values.shape[-1]])
    return tf.concat([flat, after[:, -1:]], axis=1)
