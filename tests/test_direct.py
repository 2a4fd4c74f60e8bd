"""Tests of autodiff through the solve, and of its higher derivatives."""

import numpy as np
import pytest
import tensorflow as tf
from support.gradients import assert_close, end, float64, tight

from keras_node.solvers import RK4, Tsit5


def derivatives(mode, solver, order):
    """Returns the derivatives to y0 of y(1), y' = -y^2, up to an order."""

    def nested(y, k):
        if k == 0:
            return end(lambda t, y: -(y**2), y, (0.0, 1.0), solver, "direct")
        with tf.GradientTape() as tape:
            tape.watch(y)
            value = nested(y, k - 1)
        return tape.gradient(value, y)

    y0 = float64([1.0, 0.5])
    if mode == "eager":
        return nested(y0, order)
    return tf.function(nested, autograph=False)(y0, order)


@pytest.mark.parametrize(
    "mode, solver",
    (
        ("eager", tight()),
        ("function", tight()),
        ("function", RK4(step_size=0.01)),
    ),
)
def test_second_derivative_is_that_of_the_closed_form(mode, solver):
    # y(1) = y0 / (1 + y0); fixed steps of 0.01 leave an error of 1e-9.
    y0 = np.array([1.0, 0.5])
    second = derivatives(mode, solver, order=2)
    assert_close(second, -2.0 / (1.0 + y0) ** 3, 1e-6)


@pytest.mark.slow
def test_third_derivative_is_that_of_the_closed_form():
    y0 = np.array([1.0, 0.5])
    third = derivatives("eager", Tsit5(rtol=1e-9, atol=1e-12), order=3)
    assert_close(third, 6.0 / (1.0 + y0) ** 4, 1e-6)


def test_mixed_second_derivative_to_a_weight_and_the_end_is_right():
    # y = exp(k t): d2y/dk dt = (1 + k t) exp(k t).
    k = tf.Variable(0.7, dtype=tf.float64)
    times = float64([0.0, 0.5])
    with tf.GradientTape() as outer:
        with tf.GradientTape() as inner:
            inner.watch(times)
            y = end(
                lambda t, y: k * y, float64([1.0]), times, tight(), "direct"
            )
        dtimes = inner.gradient(y, times)
        slope = dtimes[1]
    mixed = outer.gradient(slope, k)
    assert_close(mixed, (1.0 + 0.35) * np.exp(0.35), 1e-6)


def test_gradient_penalty_of_a_continuous_network_trains_its_weights():
    # R = |dy(1)/dx|^2 for y' = tanh(w y): dR/dw against differences.
    w = tf.Variable(0.9, dtype=tf.float64)
    x = float64([0.4])

    @tf.function(autograph=False)
    def penalty():
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = end(
                lambda t, y: tf.tanh(w * y),
                x,
                (0.0, 1.0),
                RK4(step_size=0.25),
                "direct",
            )
        return tf.reduce_sum(tape.gradient(y, x) ** 2)

    @tf.function(autograph=False)
    def slope():
        with tf.GradientTape() as tape:
            value = penalty()
        return tape.gradient(value, w)

    actual = slope()
    w.assign(0.9 + 1e-5)
    upper = penalty()
    w.assign(0.9 - 1e-5)
    difference = (upper - penalty()) / 2e-5
    # Differences are good to 1e-10 and 1e-16 / 1e-5.
    assert_close(actual, difference, 1e-8)
