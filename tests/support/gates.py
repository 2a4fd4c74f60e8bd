"""Ways in which dynamics use a rate, with their values and derivatives."""

import numpy as np
import tensorflow as tf

import keras_node
from support.modes import STATE, decay

RATE = np.array([0.4, 0.9])


@tf.function
def square_in_a_function(c):
    return c * c


@tf.function(jit_compile=True)
def square_compiled(c):
    return c * c


@tf.custom_gradient
def square_of_steep_gradient(c):
    """Claims five times the gradient, so that nobody else's passes for it."""
    return c * c, lambda upstream: 10.0 * c * upstream


def sine_in_a_branch(c):
    return tf.cond(
        tf.reduce_all(c > 0.0), lambda: tf.sin(c), lambda: tf.zeros_like(c)
    )


def cube_in_a_loop(c):
    return tf.while_loop(
        lambda n, power: n < 2,
        lambda n, power: (n + 1, power * c),
        (0, c),
        maximum_iterations=2,
    )[1]


def nested_solve(c):
    """Solves `u' = -c u` by one step of Euler's method: `1 - c`."""
    return keras_node.odeint(
        lambda t, u: -c * u, tf.ones_like(c), (0.0, 1.0), solver="euler"
    ).states[-1]


def sigmoid(c):
    return 1.0 / (1.0 + np.exp(-c))


def silu_slope(c):
    return sigmoid(c) * (1.0 + c * (1.0 - sigmoid(c)))


# Name: the gate, its value and its derivative.
GATES = {
    "plain": (lambda c: c * c, np.square, lambda c: 2 * c),
    "identity": (tf.identity, lambda c: c, np.ones_like),
    "silu": (tf.nn.silu, lambda c: c * sigmoid(c), silu_slope),
    "tf_function": (square_in_a_function, np.square, lambda c: 2 * c),
    "jit_function": (square_compiled, np.square, lambda c: 2 * c),
    "custom_gradient": (
        square_of_steep_gradient,
        np.square,
        lambda c: 10 * c,
    ),
    "recompute_grad": (
        tf.recompute_grad(lambda c: tf.sin(c) * c),
        lambda c: np.sin(c) * c,
        lambda c: np.sin(c) + c * np.cos(c),
    ),
    "cond": (sine_in_a_branch, np.sin, np.cos),
    "while_loop": (cube_in_a_loop, lambda c: c**3, lambda c: 3 * c**2),
    "nested_solve": (nested_solve, lambda c: 1 - c, lambda c: -np.ones(2)),
    "gather": (
        lambda c: tf.gather(c, [1, 0]),
        lambda c: c[::-1],
        lambda c: np.ones(2),
    ),
}


def expected(name, adjoint):
    """Returns the gradients of `sum(y(1))` to `y(0)` and the rate."""
    _, value, slope = GATES[name]
    growth, by_rate = decay(value(RATE), adjoint)
    by_capture = by_rate * np.sum(STATE, 0)
    if name == "gather":
        by_capture = by_capture[::-1]
    return np.broadcast_to(growth, STATE.shape), by_capture * slope(RATE)
