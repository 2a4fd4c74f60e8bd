"""Zeros of functions of one variable, many at once, in brackets."""

import typing

import tensorflow as tf

# A bracket ends at 2 ** -45 of its first width. Bisection evaluates as often as
# it halves, and this method at most once more.
_NUM_HALVINGS = 45
_MAX_EVALUATIONS = _NUM_HALVINGS + 1
# How far an estimate is moved towards the middle: the authors' choice.
_TRUNCATION = 0.2


class _Bracket(typing.NamedTuple):
    number: tf.Tensor
    low: tf.Tensor
    high: tf.Tensor
    at_low: tf.Tensor
    at_high: tf.Tensor


def find_zero(function, low, high, at_low, at_high):
    """Returns zeros, and the values there, by the ITP method.

    The zeros are the upper ends of their last brackets. The method takes at
    most one evaluation more than bisection, and is superlinear where the
    function is smooth.

    Args:
        function: Callable from points to values, both float64 of one shape.
        low, high: Float64, the ends of the brackets; where they are equal
            nothing is sought.
        at_low, at_high: Float64, the values there, of different signs; the
            upper ones may be 0.

    Reference:
    - [Oliveira & Takahashi, 2020](https://doi.org/10.1145/3423597)
    """
    sign = tf.sign(at_low)
    first_width = high - low
    half_goal = 0.5 * first_width * 2.0**-_NUM_HALVINGS

    def is_open(bracket):
        return bracket.high - bracket.low > 2.0 * half_goal

    def narrow(bracket):
        n, low, high, at_low, at_high = bracket
        width = high - low
        middle = low + 0.5 * width
        # Interpolate, truncate towards the middle, project around it.
        share = tf.math.divide_no_nan(at_low, at_low - at_high)
        estimate = low + width * share
        towards = tf.sign(middle - estimate)
        delta = _TRUNCATION * tf.math.divide_no_nan(width**2, first_width)
        estimate = tf.where(
            delta <= tf.abs(middle - estimate),
            estimate + towards * delta,
            middle,
        )
        power = tf.cast(_MAX_EVALUATIONS - n, tf.float64)
        radius = half_goal * 2.0**power - 0.5 * width
        x = tf.where(
            tf.abs(estimate - middle) <= radius,
            estimate,
            middle - towards * radius,
        )
        value = sign * function(x)
        is_before = is_open(bracket) & (value > 0.0)
        is_behind = is_open(bracket) & ~(value > 0.0)
        return (
            _Bracket(
                n + 1,
                tf.where(is_before, x, low),
                tf.where(is_behind, x, high),
                tf.where(is_before, value, at_low),
                tf.where(is_behind, value, at_high),
            ),
        )

    found = tf.while_loop(
        lambda bracket: tf.reduce_any(is_open(bracket)),
        narrow,
        (_Bracket(tf.constant(0), low, high, sign * at_low, sign * at_high),),
        parallel_iterations=1,
        maximum_iterations=_MAX_EVALUATIONS,
    )[0]
    return found.high, sign * found.at_high
