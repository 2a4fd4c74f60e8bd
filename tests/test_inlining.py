"""Tests that a copied function has the values and gradients of its call."""

import numpy as np
import pytest
import tensorflow as tf

from keras_node import odeint, solvers
from keras_node.dynamics.inlining import inline

SPEC = tf.TensorSpec([None, 3])
X = tf.random.stateless_normal([4, 3], [0, 1])


def axes(x):
    left, right = tf.split(tf.concat([x, x**2], axis=-1), [2, 4], axis=-1)
    return tf.reduce_sum(left, axis=-1, keepdims=True) * right


def products(x):
    return tf.vectorized_map(lambda row: tf.tensordot(row, row, 1) * row, x)


def scaled(x):
    @tf.custom_gradient
    def scale(x, power):
        def gradient(bar):
            # Not the derivative, so that this is told from it.
            return 5.0 * bar * x, None

        return x**2.0 + tf.cast(power, x.dtype), gradient

    return scale(x, 2)


def product(x):
    @tf.custom_gradient
    def multiply(a, b):
        return a * b, lambda bar: (bar * b, bar * a)

    return multiply(x, tf.sin(x)) + multiply(x, x)


def closure(x):
    size = tf.exp(x)

    @tf.custom_gradient
    def scale(y):
        return y * size, lambda bar: bar * size

    return tf.function(lambda y: scale(y), autograph=False)(tf.sin(x))


def looped_gradient(x):
    """A custom gradient with a loop in it."""

    @tf.custom_gradient
    def scale(x):
        def gradient(bar):
            return tf.while_loop(
                lambda n, _: n < 3, lambda n, y: (n + 1, y * x), (0, bar)
            )[1]

        return x**2, gradient

    return scale(x)


def activation(x):
    return tf.nn.silu(x) * tf.function(scaled, autograph=False)(x)


def inner_function(x):
    return tf.function(axes, autograph=False)(x) + x[:, :1]


def inner_gradient(x):
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = tf.function(axes, autograph=False)(tf.tanh(x))
    return tape.gradient(y, x)


def gradients(function, x):
    with tf.GradientTape() as outer:
        outer.watch(x)
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = function(x)
            loss = tf.reduce_sum(tf.sin(y))
        first = tf.convert_to_tensor(tape.gradient(loss, x))
        size = tf.reduce_sum(first**2)
    return y, first, tf.convert_to_tensor(outer.gradient(size, x))


@pytest.mark.parametrize(
    "function",
    [
        axes,
        products,
        scaled,
        product,
        closure,
        looped_gradient,
        activation,
        inner_function,
        inner_gradient,
    ],
)
def test_values_and_two_derivatives_are_those_of_the_call(function):
    concrete = tf.function(function, autograph=False).get_concrete_function(
        SPEC
    )

    def copied(x):
        return inline(concrete, [x])

    run = tf.function(gradients, autograph=False)
    found, expected = run(copied, X), run(function, X)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_loop_is_called(jit_compile):
    spec = [tf.TensorSpec([4, 3])]

    def loop(x):
        return tf.while_loop(
            lambda n, _: n < 3,
            lambda n, y: (n + 1, tf.sin(y) * x),
            (0, x),
            maximum_iterations=3,
        )[1]

    def end(x):
        return odeint(
            lambda t, y: loop(y),
            x,
            (0.0, 1.0),
            solvers.RK4(step_size=0.5),
            adjoint="direct",
        ).states[-1]

    def first(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = end(x)
        return tape.gradient(y, x)

    found = tf.function(first, spec, autograph=False, jit_compile=jit_compile)(
        X
    )
    np.testing.assert_allclose(found, first(X), rtol=1e-5, atol=1e-6)


def test_weights_that_are_captured_have_their_gradient():
    weight = tf.Variable([1.0, 2.0, 3.0])
    concrete = tf.function(lambda x: axes(x * weight)).get_concrete_function(
        SPEC
    )

    @tf.function
    def gradient():
        with tf.GradientTape() as tape:
            y = inline(concrete, [X, *concrete.captured_inputs])
        return tape.gradient(y, weight)

    with tf.GradientTape() as tape:
        y = axes(X * weight)
    np.testing.assert_allclose(gradient(), tape.gradient(y, weight), rtol=1e-5)


def test_a_captured_tensor_is_an_input():
    scale = tf.constant(2.0)
    concrete = tf.function(lambda x: scale * x).get_concrete_function(SPEC)

    @tf.function
    def gradient(other):
        with tf.GradientTape() as tape:
            tape.watch(other)
            y = inline(concrete, [X, other])
        return y, tape.gradient(y, other)

    y, bar = gradient(tf.constant(3.0))
    np.testing.assert_allclose(y, 3 * X)
    np.testing.assert_allclose(bar, tf.reduce_sum(X), rtol=1e-5)


def test_second_derivatives_of_a_solve_compile():
    def end(x):
        solver = solvers.RK4(step_size=0.5)
        return odeint(
            lambda t, y: -axes(tf.nn.silu(y))[:, :3],
            x,
            (0.0, 1.0),
            solver=solver,
            adjoint="direct",
        ).states[-1]

    found = tf.function(gradients, autograph=False, jit_compile=True)(end, X)
    for a, b in zip(found, gradients(end, X), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
