"""The first step size of an adaptive solve."""

import typing

import tensorflow as tf

from keras_node.solvers import clocks
from keras_node.solvers.step_size_control import NON_FINITE_FACTOR, error_scale

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
    h1 = length * steepest ** (-1.0 / solver.tableau.control_order)
    h = tf.minimum(tf.minimum(100.0 * h0, h1), length)
    # An Euler step that overflows says only that the steps must be small.
    h = tf.where(tf.math.is_finite(h), h, NON_FINITE_FACTOR * h0)
    # The perturbation has one size in all elements: measured by the error
    # allowed, a small element would respond to a large one as if it were fast.
    rate = norm(difference) / size
    is_bounded = is_at_rest & tf.math.is_finite(rate) & (rate > 0.0)
    # A method for stiff dynamics damps what is fast, at any size of the step.
    is_bounded &= not solver.is_stiff
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
        # TensorFlow's graph optimizer ends the process where empty leaves are
        # multiplied by ones.
        perturbations.append(
            tf.broadcast_to(clocks.align(size, leaf) * sign, tf.shape(leaf))
        )
    return perturbations
