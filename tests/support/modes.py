"""Exponential decay through every face of the package, with its gradients.

Where `dy/dt = -r y`, RK4 of step `h` multiplies by a polynomial of `-r h` at
each step. So both the exact gradient of the discrete solution, which
`"checkpoint"` and `"direct"` promise, and that of the continuous problem, which
`"backsolve"` promises, are closed forms.
"""

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

import keras_node

STEP = 0.25
# RK4 approximates the continuous gradient with a relative error of about
# (r h)^5 / 120 a step, below 1e-4 for rates up to 1.4.
RTOL = {"checkpoint": 1e-10, "direct": 1e-10, "backsolve": 1e-4}
FACES = ("odeint", "ODELayer", "CNFBijector")
STATE = np.array([[1.0, -2.0], [0.5, 0.3], [2.0, 1.0]])


def rk4():
    """Returns a solver of four steps in unit time, cheap to compile."""
    return keras_node.solvers.RK4(step_size=STEP, max_num_steps=32)


def decay(rate, adjoint, time=1.0):
    """Returns `y(time) / y(0)` and its derivative by the rate, NumPy."""
    rate = np.asarray(rate, np.float64)
    if adjoint == "backsolve":
        return np.exp(-rate * time), -time * np.exp(-rate * time)
    z = -rate * STEP
    steps = time / STEP
    growth = 1 + z + z**2 / 2 + z**3 / 6 + z**4 / 24
    slope = 1 + z + z**2 / 2 + z**3 / 6
    return growth**steps, -STEP * steps * growth ** (steps - 1) * slope


def solve(dynamics, state, adjoint, times=(0.0, 1.0)):
    """Returns the state at the last of `times`, by `odeint` and `rk4`."""
    results = keras_node.odeint(
        dynamics, state, times, solver=rk4(), adjoint=adjoint
    )
    return tf.nest.map_structure(lambda leaf: leaf[-1], results.states)


def face(name, dynamics, adjoint, **kwargs):
    """Returns the map from `y(0)` to `y(1)`, and the layer if there is one."""
    if name == "odeint":
        return lambda y: solve(dynamics, y, adjoint), None
    if name == "ODELayer":
        layer = keras_node.ODELayer(
            dynamics, solver=rk4(), adjoint=adjoint, dtype="float64", **kwargs
        )
        return layer, layer
    bijector = keras_node.CNFBijector(
        dynamics, solver=rk4(), adjoint=adjoint, **kwargs
    )
    return bijector.forward, bijector


def normalizing_flow(dynamics, adjoint="auto", dtype="float64"):
    """Returns a flow of two dimensions from the standard normal."""
    return keras_node.NormalizingFlow(
        keras_node.CNFBijector(dynamics, solver=rk4(), adjoint=adjoint),
        tfp.distributions.MultivariateNormalDiag(tf.zeros(2, dtype)),
    )


def latent_ode(dynamics, adjoint="auto"):
    """Returns a `LatentODE` whose prediction is linear in the latent state."""
    keras.utils.set_random_seed(0)
    return keras_node.LatentODE(
        2,
        2,
        encoder=keras.layers.GRU(3, go_backwards=True, use_cudnn=False),
        dynamics=dynamics,
        decoder=keras.layers.Dense(2, use_bias=False),
        solver=rk4(),
        adjoint=adjoint,
    )


def series():
    """Returns data of two series at three times, for a `LatentODE`."""
    values = np.random.default_rng(0).normal(size=(2, 3, 2))
    return {
        "values": tf.constant(values, tf.float32),
        "times": tf.constant([0.0, 0.5, 1.0]),
        "mask": tf.ones((2, 3), tf.bool),
    }


def log_prob_gradient(x, rate, adjoint):
    """Returns d/d rate of `sum(log_prob(x))` where `dy/dt = -rate y`.

    The inverse grows: `z = x exp(rate)`, `log |det| = sum(rate)`. One rate for
    each of two features; NumPy.
    """
    growth, slope = decay(-np.asarray(rate), adjoint)
    return np.sum(-(x * growth) * (x * -slope) + 1.0, axis=0)


class Field(keras.layers.Layer):
    """`-scale * gate(rate) * y`, with one weight for each of two features."""

    def __init__(self, gate=None, rate=(0.4, 0.9), scale=1.0, **kwargs):
        super().__init__(dtype=kwargs.pop("dtype", "float64"), **kwargs)
        self.gate = gate
        self.scale = scale
        self.rate = self.add_weight(
            shape=(2,), initializer=keras.initializers.Constant(0.0)
        )
        self.rate.assign(rate)

    def call(self, y):
        rate = 1.0 * self.rate  # A tensor, as some gates want.
        return -self.scale * (self.gate(rate) if self.gate else rate) * y
