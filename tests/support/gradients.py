"""Gradients in each mode of execution, and a flow that knows its own."""

import functools

import keras
import numpy as np
import tensorflow as tf

import keras_node

ADJOINTS = ("checkpoint", "direct", "backsolve")

# Relative errors promised at `rtol=1e-9`, `atol=1e-12` in float64.
RTOL = {"checkpoint": 1e-6, "direct": 1e-6, "backsolve": 1e-5}

# AutoGraph takes time, and has a test of its own.
MODES = {
    "eager": lambda function: function,
    "function": functools.partial(tf.function, autograph=False),
    "xla": functools.partial(tf.function, autograph=False, jit_compile=True),
}


def tight(solver=keras_node.solvers.Tsit5, **kwargs):
    """Returns a solver with the tolerances that `RTOL` is promised for."""
    return solver(rtol=1e-9, atol=1e-12, **kwargs)


def float64(value):
    """Returns a float64 tensor."""
    return tf.constant(value, tf.float64)


def assert_close(actual, expected, rtol, atol=0.0):
    """Compares nested tensors with nested arrays, in the maximum norm."""
    actual_leaves = tf.nest.flatten(actual)
    leaves = tf.__internal__.nest.flatten_up_to(
        actual, expected, check_types=False
    )
    for a, b in zip(actual_leaves, leaves, strict=True):
        assert a is not None, "a gradient is None"
        a, b = np.asarray(a), np.asarray(b)
        assert a.shape == b.shape
        scale = np.max(np.abs(b))
        np.testing.assert_allclose(a, b, rtol=0, atol=rtol * scale + atol)


def gradient(loss, sources, mode="function", variables=()):
    """Returns the gradient of `loss(sources)` to sources and variables.

    Args:
        loss: Callable of `sources`, a nested structure of tensors.
        sources: The tensors; arguments of the `tf.function`, if there is one.
        mode: One of `MODES`.
        variables: Variables, or tensors that the loss closes over.
    """

    def compute(sources):
        with tf.GradientTape() as tape:
            tape.watch([sources, list(variables)])
            value = loss(sources)
        return tape.gradient(value, (sources, list(variables)))

    gradients, rest = MODES[mode](compute)(sources)
    return (gradients, rest) if variables else gradients


def end(dynamics, state, times, solver=None, adjoint="auto"):
    """Returns the state at the last of `times`."""
    results = keras_node.odeint(
        dynamics, state, times, solver=solver or tight(), adjoint=adjoint
    )
    return tf.nest.map_structure(lambda leaf: leaf[-1], results.states)


class Flow:
    """Growth beside a rotation, with a closed form.

        y' = k c cos(2 t) y,    z' = z W

    where `k` is a `tf.Variable`, `W` the kernel of a Keras layer, and
    `c = tanh(features)` a tensor that the dynamics close over. The state is a
    dict of `y` `(2, 3)` and `z` `(2, 2)`; its solution is

        y(t) = y0 exp(k c (sin 2 t - sin 2 t0) / 2),    z(t) = z0 expm(t W).
    """

    def __init__(self, times):
        rng = np.random.default_rng(0)
        times = np.asarray(times)
        self.sources = {
            "state": {
                "y": float64(rng.normal(size=(2, 3))),
                "z": float64(rng.normal(size=(2, 2))),
            },
            "times": float64(times),
            "features": float64(rng.normal(size=3)),
        }
        self.k = tf.Variable(0.7, dtype=tf.float64)
        self.layer = keras.layers.Dense(2, use_bias=False, dtype="float64")
        self.layer.build((None, 2))
        self.layer.kernel.assign([[-0.3, 1.1], [-0.9, 0.2]])
        num_times = times.shape[-1]
        self.weights = {
            "y": rng.normal(size=(num_times, 2, 3)),
            "z": rng.normal(size=(num_times, 2, 2)),
        }

    def gradients(self, solve, mode):
        """Returns the gradients of a loss of all requested states.

        Args:
            solve: Callable of `(state, times, c)` that returns the states.
            mode: One of `MODES`.
        """

        def loss(sources):
            states = solve(
                sources["state"],
                sources["times"],
                tf.tanh(sources["features"]),
            )
            return sum(
                tf.reduce_sum(self.weights[name] * tf.sin(states[name]))
                for name in ("y", "z")
            )

        gradients, (k, kernel) = gradient(
            loss, self.sources, mode, [self.k, self.layer.kernel.value]
        )
        return {**gradients, "variable": k, "keras_weight": kernel}

    def numerical(self, solver, adjoint):
        """Returns a `solve` by `odeint`."""

        def solve(state, times, c):
            def dynamics(t, state):
                t = tf.reshape(t, [-1, 1])
                return {
                    "y": self.k * c * tf.cos(2.0 * t) * state["y"],
                    "z": self.layer(state["z"]),
                }

            return keras_node.odeint(
                dynamics, state, times, solver=solver, adjoint=adjoint
            ).states

        return solve

    def exact(self, state, times, c):
        """Is a `solve` by the closed form."""
        t = times[:, None] if times.shape.rank == 1 else tf.transpose(times)
        grown = (tf.sin(2.0 * t) - tf.sin(2.0 * t[:1])) / 2.0
        angle = (t - t[:1])[..., None, None]
        rotation = tf.linalg.expm(angle * self.layer.kernel.value)
        return {
            "y": state["y"] * tf.exp(self.k * c * grown[..., None]),
            "z": tf.squeeze(state["z"][..., None, :] @ rotation, -2),
        }
