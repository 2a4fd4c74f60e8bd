"""Step size control: the first step size, and the next from each error."""

import typing

import numpy as np
import tensorflow as tf

from keras_node.solvers import clocks, step

# After a trial step that is not finite the error is unknown: cut hard.
_NON_FINITE_FACTOR = 0.1

# Weight of the previous error: Hairer's `beta` times the order. His 0.2 takes
# 5 % more steps than 0.1 on smooth problems (DETEST), with no fewer rejected.
_PREVIOUS = 0.1


# The least relative tolerance, in units of the dtype's epsilon. Below it the
# error estimates are rounding, which shorter steps only add to: in float32 the
# step of a latent ODE at 1e-7 took two to three times the evaluations.
_LEAST_EPSILONS = 4.0


# A state that moves by less than this fraction of the error allowed, at its
# first rate and over the whole interval, is at rest.
_AT_REST = 1e-5

# The longest step from rest, in units of the time in which the dynamics respond
# to a perturbation. On the negative real axis the pairs are stable up to 2.5
# (Bosh3) or more.
_STABLE = 2.0


class FirstStep(typing.NamedTuple):
    """The first step size, and a bound; positive float64 per clock.

    Attributes:
        size: The first step size.
        longest: The longest step to take at rest.
    """

    size: tf.Tensor
    longest: tf.Tensor


def error_scale(rtol, atol, y0, y1):
    """Returns the error that a step may make, elementwise."""
    return [
        _as(a.dtype, atol)
        + _at_least_rounding(a.dtype, rtol) * tf.maximum(tf.abs(a), tf.abs(b))
        for a, b in zip(y0, y1, strict=True)
    ]


def _as(dtype, tolerance):
    # `tf.cast` would read Python floats as float32.
    is_variable = isinstance(tolerance, tf.Variable)
    return tf.cast(tolerance, dtype) if is_variable else tolerance


def _at_least_rounding(dtype, rtol):
    floor = _LEAST_EPSILONS * float(np.finfo(dtype.as_numpy_dtype).eps)
    if isinstance(rtol, tf.Variable):
        return tf.maximum(_as(dtype, rtol), floor)
    return max(rtol, floor)


def error_ratio(tableau, increments, scale, norm):
    """Returns the error of a step over the error allowed, per clock.

    With a second estimate (DOP853), the first is damped where the second is
    small: `|e5|**2 / sqrt(|e5|**2 + 0.01 |e3|**2)` (Hairer, Nørsett & Wanner,
    II.10), which makes it an estimate of order 7.
    """

    def ratio_of(weights):
        errors = step.weighted_sum(None, increments, weights)
        return norm([e / s for e, s in zip(errors, scale, strict=True)])

    ratio = ratio_of(tableau.b_error)
    if tableau.b_error_damping is None:
        return ratio
    damping = 0.1 * ratio_of(tableau.b_error_damping)
    # hypot(0, 0) would make an exact step NaN.
    size = tf.sqrt(tf.maximum(ratio**2 + damping**2, 1e-300))
    return ratio**2 / size


def first_step(ode_fn, t, y, f, end, solver, norm):
    """Chooses the first step (after Hairer, Nørsett & Wanner, II.4, p. 169).

    Compares the sizes of the state, its derivative and, by one explicit Euler
    step, its second derivative. That Euler step stays inside the interval.

    The book aims at 0.01 of the error allowed; this aims at all of it, since
    the error constants of these methods are below 0.01 already. The book's
    derivatives depend on the unit of time; here that unit is the whole
    interval, so that the unit of `times` does not matter.

    At rest there is no error, and steps would grow beyond the stability of the
    method: harmless to the state, but not to its gradient, which is a product
    of the steps' derivatives. There the evaluation is spent on the state
    perturbed by the error allowed; the rate of the response bounds the steps
    as long as they make no error.

    Returns:
        `FirstStep`; takes one evaluation.
    """
    scale = error_scale(solver.rtol, solver.atol, y, y)

    def scaled_norm(leaves):
        return norm([a / b for a, b in zip(leaves, scale, strict=True)])

    length = tf.abs(end - t)
    d0, d1 = scaled_norm(y), scaled_norm(f)
    is_measured = (d0 >= 1e-5) & (d1 * length >= 1e-5)
    h0 = 1e-2 * tf.math.divide_no_nan(d0, d1)
    h0 = tf.minimum(tf.where(is_measured, h0, 1e-6 * length), length)
    is_at_rest = d1 * length < _AT_REST
    size = norm(scale)
    elapsed = tf.sign(end - t) * h0
    change = clocks.select(
        is_at_rest,
        _perturbation(size, scale, t.shape.rank),
        clocks.scale(elapsed, f),
    )
    # The sum may round past the end.
    t1 = tf.where(h0 < length, t + elapsed, end)
    # At rest, only the perturbation may change the dynamics, not time.
    t1 = tf.where(is_at_rest, t, t1)
    slope = ode_fn(
        tf.cast(t1, y[0].dtype), [a + b for a, b in zip(y, change, strict=True)]
    )
    difference = [a - b for a, b in zip(slope, f, strict=True)]
    d2 = tf.math.divide_no_nan(scaled_norm(difference), h0)
    steepest = tf.maximum(d1 * length, d2 * length**2)
    # For a straight line the other bounds suffice.
    steepest = tf.maximum(steepest, 1e-15)
    h1 = length * steepest ** (-1.0 / solver.tableau.order)
    h = tf.minimum(tf.minimum(100.0 * h0, h1), length)
    # An Euler step that overflows says only that the steps must be small.
    h = tf.where(tf.math.is_finite(h), h, _NON_FINITE_FACTOR * h0)
    # The perturbation has one size in all elements: measured by the error
    # allowed, a small element would respond to a large one as if it were fast.
    rate = norm(difference) / size
    is_bounded = is_at_rest & tf.math.is_finite(rate) & (rate > 0.0)
    longest = tf.where(
        is_bounded, _STABLE / tf.where(is_bounded, rate, 1.0), tf.float64.max
    )
    return FirstStep(tf.minimum(h, longest), longest)


def _perturbation(size, leaves, clock_rank):
    """Returns `size` with signs that alternate along each axis of a clock.

    Diffusion does not respond to a perturbation that is the same everywhere.
    """
    perturbations = []
    for leaf in leaves:
        parity = 0
        for axis in range(clock_rank, leaf.shape.rank):
            index = tf.range(tf.shape(leaf)[axis])
            after = [1] * (leaf.shape.rank - axis - 1)
            parity += tf.reshape(index, [-1, *after])
        sign = tf.cast(1 - 2 * (parity % 2), leaf.dtype)
        perturbations.append(
            clocks.align(size, leaf) * sign * tf.ones_like(leaf)
        )
    return perturbations


def step_size_factor(ratio, previous_ratio, solver):
    """PI control (Hairer & Wanner, IV.2): the factor for the step size.

    `factor = safety * ratio**-alpha * previous_ratio**beta`, with
    `beta = 0.1 / order` and Hairer's `alpha = 1 / order - 0.75 * beta`.

    Args:
        ratio: Float64 per clock, the error over the error allowed; not finite
            where the trial step was not.
        previous_ratio: The same for the last accepted step.
        solver: Has the safety factor, the limits and the order.
    """
    beta = _PREVIOUS / solver.tableau.order
    alpha = 1.0 / solver.tableau.order - 0.75 * beta
    finite = tf.math.is_finite(ratio)
    safe = tf.maximum(tf.where(finite, ratio, 1.0), 1e-10)
    previous = tf.maximum(previous_ratio, 1e-4)
    factor = solver.safety_factor * safe**-alpha * previous**beta
    factor = tf.clip_by_value(
        factor, solver.min_step_size_factor, solver.max_step_size_factor
    )
    return tf.where(finite, factor, _NON_FINITE_FACTOR)
