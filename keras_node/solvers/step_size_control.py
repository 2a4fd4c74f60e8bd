"""Step size control: the first step size, and the next from each error."""

import numpy as np
import tensorflow as tf

from keras_node.solvers import step

# After a trial step that is not finite the error is unknown: cut hard.
NON_FINITE_FACTOR = 0.1

# Weight of the previous error: Hairer's `beta` times the order. His 0.2 takes
# 5 % more steps than 0.1 on smooth problems (DETEST), with no fewer rejected.
_PREVIOUS = 0.1


# The least relative tolerance, in units of the dtype's epsilon. Below it the
# error estimates are rounding, which shorter steps only add to: in float32 the
# step of a latent ODE at 1e-7 took two to three times the evaluations.
_LEAST_EPSILONS = 4.0


def error_scale(rtol, atol, y0, y1):
    """Returns the error that a step may make, elementwise; never zero."""
    return [
        _at_least(_smallest(a.dtype), atol, a.dtype)
        + _at_least(_rounding(a.dtype), rtol, a.dtype)
        * tf.maximum(tf.abs(a), tf.abs(b))
        for a, b in zip(y0, y1, strict=True)
    ]


def _smallest(dtype):
    # With `atol=0` a state that stays zero would have an error of 0 / 0.
    return float(np.finfo(dtype.as_numpy_dtype).tiny) ** 0.5


def _rounding(dtype):
    return _LEAST_EPSILONS * float(np.finfo(dtype.as_numpy_dtype).eps)


def _at_least(floor, tolerance, dtype):
    if isinstance(tolerance, tf.Variable):
        # `tf.cast` would read Python floats as float32.
        return tf.maximum(tf.cast(tolerance, dtype), floor)
    return max(tolerance, floor)


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
    order = solver.tableau.control_order
    beta = _PREVIOUS / order
    alpha = 1.0 / order - 0.75 * beta
    finite = tf.math.is_finite(ratio)
    safe = tf.maximum(tf.where(finite, ratio, 1.0), 1e-10)
    previous = tf.maximum(previous_ratio, 1e-4)
    factor = solver.safety_factor * safe**-alpha * previous**beta
    factor = tf.clip_by_value(
        factor, solver.min_step_size_factor, solver.max_step_size_factor
    )
    return tf.where(finite, factor, NON_FINITE_FACTOR)
