"""Paths through data: inputs that dynamics read at any time."""

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from keras_node.common import assertions
from keras_node.common.conversion import as_tensor


class Path:
    """A piecewise polynomial through data, a function of time.

    Made by `linear`, `rectilinear`, `hermite` or `natural_cubic`. Between the
    knots `t_k <= t < t_{k+1}` it is `sum_p c_kp (t - t_k)**p`; before the first
    knot and after the last it is constant. Differentiable in the data and in
    the time. A look-up takes `O(log T)`.

    Args:
        places: Float64 `(T,)`, `(batch, T)`, or `(batch, channels, T)` where
            channels have been observed at different times; ascending, equal
            neighbours being one.
        coefficients: List of tensors `(batch, channels, T - 1)`, those of the
            powers of `t - t_k`, from the constant on.
        end: Tensor `(batch, channels)`, the value from the last place on.
        knots: As below.

    Call arguments:
        t: Float tensor, one time for all samples `()`, one for each `(batch,)`,
            or several for each `(batch, n)`.

    Attributes:
        knots: The times of the data, where a derivative or the path itself
            may jump: `jump_times` of a solve. Float64 `(T,)`, or `(batch, T)`
            with NaN where nothing was observed, as the times were given.
        derivative: The derivative by time, another callable of `t`.

    Example:
    >>> path = keras_node.interpolation.linear([0.0, 1.0], [[[0.0], [2.0]]])
    >>> float(path(0.25)[0, 0]), float(path.derivative(0.25)[0, 0])
    (0.5, 2.0)
    """

    def __init__(self, places, coefficients, end, knots):
        self._places = places
        self._coefficients = coefficients
        self._end = end
        self.knots = knots

    def __call__(self, t):
        """Returns the value, `(batch, channels)`; `(batch, n, channels)`."""
        t = tf.cast(tf.convert_to_tensor(t), tf.float64)
        coefficients, offset = self._at(t)
        value = coefficients[-1]
        for coefficient in coefficients[-2::-1]:
            value = value * offset + coefficient
        end = self._end[..., None] if t.shape.rank == 2 else self._end
        is_after = self._spread(self._rows(t) >= self._places[..., -1:], t)
        return _channels_last(tf.where(is_after, end, value), t)

    def derivative(self, t):
        """Returns the derivative by time, shaped as the value.

        At a knot that of the piece behind it; at the last of the one before.
        """
        t = tf.cast(tf.convert_to_tensor(t), tf.float64)
        coefficients, offset = self._at(t)
        slope = tf.zeros_like(coefficients[0])
        for power in range(len(coefficients) - 1, 0, -1):
            slope = slope * offset + power * coefficients[power]
        rows = self._rows(t)
        is_inside = rows >= self._places[..., :1]
        is_inside &= rows <= self._places[..., -1:]
        is_inside = self._spread(is_inside, t)
        slope = tf.where(is_inside, slope, tf.zeros_like(slope))
        return _channels_last(slope, t)

    def _at(self, t):
        """Returns the coefficients at `t`, and the time since their place."""
        first, last = self._places[..., :1], self._places[..., -1:]
        rows = tf.clip_by_value(self._rows(t), first, last)
        # The last knot belongs to the piece before it.
        inside = tf.minimum(rows, tf.math.nextafter(last, first))
        k = tf.searchsorted(self._places, inside, side="right") - 1
        k = tf.minimum(k, tf.shape(self._places)[-1] - 2)
        num_axes = self._places.shape.rank - 1
        offset = rows - tf.gather(self._places, k, batch_dims=num_axes)
        offset = tf.cast(self._spread(offset, t), self._end.dtype)
        return [self._look_up(c, k, t) for c in self._coefficients], offset

    def _look_up(self, coefficient, k, t):
        if t.shape.rank == 0 and self._places.shape.rank == 1:
            return tf.gather(coefficient, k[0], axis=-1)
        k = self._spread(k, t)
        if t.shape.rank < 2:
            k = k[..., None]
        shape = tf.concat([tf.shape(coefficient)[:2], tf.shape(k)[2:]], axis=0)
        found = tf.gather(coefficient, tf.broadcast_to(k, shape), batch_dims=2)
        return found if t.shape.rank == 2 else found[..., 0]

    def _rows(self, t):
        """Returns times with the axes of the knots, several in the last."""
        if self._places.shape.rank == 1:
            return tf.reshape(t, [-1])
        rows = t if t.shape.rank == 2 else tf.reshape(t, [-1, 1])
        shape = tf.shape(self._places)
        if self._places.shape.rank == 3:
            rows = rows[:, None]
        shape = tf.concat([shape[:-1], tf.shape(rows)[-1:]], axis=0)
        return tf.broadcast_to(rows, shape)

    def _spread(self, rows, t):
        """Undoes `_rows`: `(batch, channels)`, or with `n` as last axis.

        An axis of 1 stands for all samples or all channels.
        """
        rank = self._places.shape.rank
        if rank == 1 and t.shape.rank < 2:
            return tf.reshape(rows, [-1, 1])
        if rank == 1:
            return tf.reshape(rows, tf.shape(t))[:, None]
        if rank == 2:
            rows = rows[:, None]
        return rows if t.shape.rank == 2 else rows[..., 0]


def _channels_last(value, t):
    return tf.linalg.matrix_transpose(value) if t.shape.rank == 2 else value


def linear(times, values, mask=None):
    """Returns the path of straight lines between observations.

    Args:
        times: Floats `(T,)` or `(batch, T)`, strictly ascending, at least two.
        values: Floats `(batch, T, channels)`; NaN where missing.
        mask: Booleans `(batch, T)` or `(batch, T, channels)`, true where
            something was observed. Times and values elsewhere may be
            anything. Default `None`: true where values are not NaN.

    Returns:
        `Path`. A channel keeps its first value until it is observed, and its
        last one from then on; one that never is stays 0.

    Raises:
        ValueError: If a shape does not fit the others, or times are not
            ascending.
        tf.errors.InvalidArgumentError: The latter in a graph.
    """
    data = _Data(times, values, mask)
    return data.path([data.starts, data.slopes])


def rectilinear(times, values, mask=None):
    """Returns the path that keeps each value until the next is observed.

    Online: at any time it depends on what was observed before alone. It jumps
    at its knots, and its derivative is 0.

    Args:
        times, values, mask: As in `linear`.
    """
    data = _Data(times, values, mask)
    return data.path([data.starts])


def hermite(times, values, mask=None):
    """Returns the cubic path whose slopes are backward differences.

    Between two observations it depends on them and on the one before alone:
    online, once the next is there. Its derivative is continuous, but for the
    first knot. With `h` the length of a piece, `s` its difference quotient and
    `p` that of the piece before (`s` in the first),

        x(t_k + u) = x_k + p u + 2 (s - p) / h u^2 - (s - p) / h^2 u^3.

    Args:
        times, values, mask: As in `linear`.

    Reference:
    - [Morrill et al., 2021](https://arxiv.org/abs/2106.11028)
    """
    data = _Data(times, values, mask)
    slope = data.slopes
    before = data.slopes_before()
    bend = (slope - before) * data.inverse_lengths
    return data.path(
        [data.starts, before, 2 * bend, -bend * data.inverse_lengths]
    )


def natural_cubic(times, values, mask=None):
    """Returns the cubic spline whose second derivative is 0 at the ends.

    Of all curves through the data the one of least curvature; it depends on
    all of them. With second derivatives `m_k` at the knots,

        h_{k-1} m_{k-1} + 2 (h_{k-1} + h_k) m_k + h_k m_{k+1}
            = 6 (s_k - s_{k-1}).

    Args:
        times, values, mask: As in `linear`.
    """
    data = _Data(times, values, mask)
    m = data.second_derivatives()
    length, slope = data.lengths, data.slopes
    left, right = m[..., :-1], m[..., 1:]
    return data.path(
        [
            data.starts,
            slope - length * (2 * left + right) / 6,
            left / 2,
            (right - left) * data.inverse_lengths / 6,
        ]
    )


class _Data:
    """Observations of each channel, those that are missing taken out.

    Those observed come first, the last of them again for each that is missing:
    pieces of length 0 at the end, which no look-up finds.

    Attributes:
        starts: `(batch, channels, T - 1)`, the value at the start of a piece.
        lengths, inverse_lengths: The same for its length; the inverse of 0
            is 0. Axes of 1 stand for all samples or channels.
        slopes: As `starts`, its difference quotient.
    """

    def __init__(self, times, values, mask):
        values = as_tensor(values, "values", "floats (batch, T, channels)")
        if not tf.is_tensor(times):
            # TensorFlow would read Python floats as float32.
            times = np.asarray(times)
        times = as_tensor(times, "times", "floats (T,) or (batch, T)")
        if mask is not None:
            mask = tf.cast(mask, tf.bool)
        _check_shapes(times, values, mask)
        mask = _mask_of(mask, values)
        self.knots = _checked(tf.cast(times, tf.float64), mask)
        self._places = self.knots
        self._values = tf.linalg.matrix_transpose(values)
        if mask is not None:
            self._move_missing(mask)
        self.starts = self._values[..., :-1]
        lengths = tf.cast(
            self._places[..., 1:] - self._places[..., :-1], values.dtype
        )
        if lengths.shape.rank == 2:
            lengths = lengths[:, None]
        self.lengths = lengths
        self.inverse_lengths = tf.math.divide_no_nan(
            tf.ones_like(lengths), lengths
        )
        rises = self._values[..., 1:] - self.starts
        self.slopes = rises * self.inverse_lengths

    def _move_missing(self, mask):
        """Moves what is missing, by a mask `(batch, channels or 1, T)`."""
        shape = tf.shape(self._values)
        is_seen = tf.broadcast_to(mask, shape)
        values = tf.where(is_seen, self._values, tf.zeros_like(self._values))
        place = _seen_first(mask)
        times = self.knots if self.knots.shape.rank == 2 else self.knots[None]
        # Where nothing is seen any place will do.
        times = tf.where(tf.math.is_nan(times), tf.zeros_like(times), times)
        times = tf.broadcast_to(times[:, None], tf.shape(mask))
        self._places = tf.gather(times, place, batch_dims=2)
        if mask.shape[1] == 1:
            self._places = self._places[:, 0]
        self._values = tf.gather(
            values, tf.broadcast_to(place, shape), batch_dims=2
        )

    def slopes_before(self):
        """Returns the slope of the piece before each, its own for the first."""
        return tf.concat([self.slopes[..., :1], self.slopes[..., :-1]], axis=-1)

    def second_derivatives(self):
        """Returns those of the natural spline at the knots."""
        length = tf.broadcast_to(self.lengths, tf.shape(self.slopes))
        before, after = length[..., :-1], length[..., 1:]
        # Before a piece of length 0 the spline ends.
        is_free = (before > 0) & (after > 0)
        jump = 6 * (self.slopes[..., 1:] - self.slopes[..., :-1])
        zeros = tf.zeros_like(jump)
        diagonals = tf.stack(
            [
                tf.where(is_free, after, zeros),
                tf.where(is_free, 2 * (before + after), tf.ones_like(jump)),
                tf.where(is_free, before, zeros),
            ],
            axis=-2,
        )
        # Its diagonal dominates. XLA has no pivoting.
        inner = tf.linalg.tridiagonal_solve(
            diagonals,
            tf.where(is_free, jump, zeros),
            partial_pivoting=False,
        )
        edge = tf.zeros_like(self.slopes[..., :1])
        return tf.concat([edge, inner, edge], axis=-1)

    def path(self, coefficients):
        """Returns the `Path` with these coefficients."""
        shape = tf.shape(self.slopes)
        coefficients = [tf.broadcast_to(c, shape) for c in coefficients]
        end = self._values[..., -1]
        return Path(self._places, coefficients, end, self.knots)


def _mask_of(mask, values):
    """Returns `(batch, channels or 1, T)`, or `None` if nothing is missing."""
    if mask is None:
        mask = ~tf.math.is_nan(values)
        if tf.executing_eagerly() and tf.reduce_all(mask):
            return None
    if mask.shape.rank == 2:
        return mask[:, None]
    return tf.linalg.matrix_transpose(mask)


def _checked(times, mask):
    """Returns ascending times; NaN for those of a sample at which it has none.

    Raises:
        ValueError: If they are not ascending, or not finite.
    """
    is_seen = tf.ones_like(times, tf.bool)
    if mask is not None and times.shape.rank == 2:
        is_seen = tf.reduce_any(mask, axis=1)
        times = tf.where(is_seen, times, np.nan)
    seen = tf.where(is_seen, times, -np.inf)
    latest = tfp.math.scan_associative(tf.maximum, seen, axis=-1)
    rises = seen[..., 1:] > latest[..., :-1]
    is_valid = tf.reduce_all(rises | ~is_seen[..., 1:])
    is_valid &= tf.reduce_all(tf.math.is_finite(times) | ~is_seen)
    if tf.executing_eagerly():
        if not is_valid:
            raise ValueError(f"{_NOT_ASCENDING} times={times.numpy()}")
        return times
    if assertions.can_raise():
        with tf.control_dependencies(
            [assertions.require(is_valid, f"{_NOT_ASCENDING} times =", times)]
        ):
            return tf.identity(times)
    return times


_NOT_ASCENDING = (
    "`times` must be finite and strictly ascending where something was "
    "observed. Received:"
)


def _seen_first(mask):
    """Returns the true places in order, then the last of them again."""
    places = tf.range(tf.shape(mask)[-1])
    last = tf.reduce_max(tf.where(mask, places, 0), axis=-1, keepdims=True)
    return tf.minimum(tf.sort(tf.where(mask, places, tf.int32.max)), last)


def _check_shapes(times, values, mask):
    """Raises `ValueError` for shapes that do not fit each other."""
    if values.shape.rank != 3 or values.shape[1] == 1:
        raise ValueError(
            "`values` must have the shape (batch, T, channels), T at least 2. "
            f"Received: values of shape {values.shape}"
        )
    batch_and_times = values.shape[:2]
    expected = {"times": [batch_and_times[1:], batch_and_times]}
    received = {"times": times.shape}
    if mask is not None:
        expected["mask"] = [batch_and_times, values.shape]
        received["mask"] = mask.shape
    for name, shape in received.items():
        if not any(map(shape.is_compatible_with, expected[name])):
            raise ValueError(
                f"`{name}` must have one of the shapes {expected[name]}, as "
                f"`values` have {values.shape}. "
                f"Received: {name} of shape {shape}"
            )
