"""One Runge-Kutta step, for any tableau."""

import typing

import tensorflow as tf

from keras_node.dynamics import jacobian
from keras_node.solvers import clocks


class Interval(typing.NamedTuple):
    """Where the dynamics may be evaluated: float64 per clock, `low <= high`."""

    low: tf.Tensor
    high: tf.Tensor


def linearize_of(ode_fn, t, leaves):
    """Returns dynamics linearized, by their own function if they have one."""
    own = getattr(ode_fn, "linearize", None)
    if own is not None:
        return own(t, leaves)
    return jacobian.linearize(ode_fn, t, leaves)


class Evaluator:
    """Dynamics that a step evaluates.

    Args:
        ode_fn: Callable `(t, leaves) -> leaves`.
    """

    def __init__(self, ode_fn):
        self._ode_fn = ode_fn

    def __call__(self, t, leaves):
        return self._ode_fn(t, leaves)

    def linearize(self, t, leaves):
        """Returns the dynamics linearized; see `jacobian.linearize`."""
        return linearize_of(self._ode_fn, t, leaves)

    def behind_jumps(self, lands, t, y, f):
        """Returns the derivative, taken anew in the clocks at a jump.

        Args:
            lands: Boolean per clock, whether it is at a jump.
            t: Time per clock, behind the jump.
            y: List of leaves.
            f: List of leaves, the derivative from before.
        """
        f1 = tf.cond(
            tf.reduce_any(lands), lambda: self._ode_fn(t, y), lambda: f
        )
        return clocks.select(lands, f1, f)


def stage_times(c, t, dt, interval, dtype):
    """Returns `t + c_i * dt` for each stage, in the dtype of the state.

    `t + dt` can round past the end of the interval by an ulp, so the times are
    clamped; gradients ignore the clamp, as rounding is not a function of time.
    """
    nodes = tf.reshape(tf.constant(c, tf.float64), [-1] + [1] * t.shape.rank)
    times = t + nodes * dt
    clamped = tf.clip_by_value(times, interval.low, interval.high)
    times = tf.stop_gradient(clamped) + (times - tf.stop_gradient(times))
    return tf.unstack(tf.cast(times, dtype), num=len(c))


def weighted_sum(y, increments, weights):
    """Returns `y + sum_j weights_j * increments_j`; `y` may be `None`.

    As the weights are static, this is one multiplication for each nonzero
    entry: XLA fuses them into one loop, and TensorFlow's kernels are no slower
    than a matrix product over stacked stages (measured).
    """
    terms = [
        (increment, weight)
        for increment, weight in zip(increments, weights, strict=False)
        if weight != 0
    ]
    sums = []
    for i in range(len(increments[0])):
        leaves = [increment[i] * weight for increment, weight in terms]
        if y is not None:
            leaves.append(y[i])
        sums.append(tf.add_n(leaves))
    return sums


def runge_kutta_step(tableau, ode_fn, interval, t, dt, y, f):
    """Takes one step of size `dt` from `(t, y)`.

    Args:
        tableau: `ButcherTableau`.
        ode_fn: Callable `(t, leaves) -> leaves`.
        interval: `Interval` that no stage leaves.
        t: Float64 per clock.
        dt: Float64 per clock; 0 leaves a clock where it is.
        y: List of leaves.
        f: List of leaves, `ode_fn(t, y)`; `[]` for methods that are not
            first-same-as-last, which evaluate it here.

    Returns:
        `(y1, f1, increments)`: the state at `t + dt`, its derivative (`[]`
        as above), and `dt * k_j` for each main stage `j`.
    """
    times = stage_times(
        tableau.c[: tableau.num_stages], t, dt, interval, y[0].dtype
    )
    f1 = f if tableau.fsal else ode_fn(times[0], y)
    increments = [clocks.scale(dt, f1)]
    y1 = y
    for i in range(1, tableau.num_stages):
        y1 = weighted_sum(y, increments, tableau.a[i])
        f1 = ode_fn(times[i], y1)
        increments.append(clocks.scale(dt, f1))
    if tableau.fsal:
        return y1, f1, increments
    return weighted_sum(y, increments, tableau.b), [], increments


def dense_increments(tableau, ode_fn, interval, t, dt, y, increments):
    """Returns `dt * k_j` of all stages, including those for dense output."""
    times = stage_times(
        tableau.c[tableau.num_stages :], t, dt, interval, y[0].dtype
    )
    increments = list(increments)
    for i, stage_time in enumerate(times, tableau.num_stages):
        state = weighted_sum(y, increments, tableau.a[i])
        increments.append(clocks.scale(dt, ode_fn(stage_time, state)))
    return increments


def dense_weights(tableau, theta):
    """Evaluates the polynomials `b_j(theta)` of dense output.

    Returns:
        List with float64 per clock for each stage, or `None` for stages that
        do not contribute.
    """
    degree = len(tableau.b_dense[0])
    powers = [theta]
    for _ in range(degree - 1):
        powers.append(powers[-1] * theta)
    weights = []
    for row in tableau.b_dense:
        terms = [c * p for c, p in zip(row, powers, strict=True) if c != 0]
        weights.append(tf.add_n(terms) if terms else None)
    return weights


def interpolate(y, increments, weights):
    """Returns `y + sum_j weights_j * increments_j` for weights per clock.

    Weights may be for many times, if `y` and the increments have one row.
    """
    sums = []
    for i, leaf in enumerate(y):
        terms = [
            clocks.align(weight, leaf) * increment[i]
            for increment, weight in zip(increments, weights, strict=True)
            if weight is not None
        ]
        sums.append(leaf + tf.add_n(terms))
    return sums
