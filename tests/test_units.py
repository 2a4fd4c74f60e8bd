"""Large and small units of state and time, in float32."""

import numpy as np
import pytest
import tensorflow as tf

import keras_node
from keras_node import solvers

END = 2.0


def decays(t, y):
    return -y


def oscillates(t, y):
    return tf.stack([y[1], -y[0]])


def is_driven(t, y):
    return tf.ones_like(y) * tf.cos(t)


def rests(t, y):
    return tf.zeros_like(y)


# Dynamics, initial state, and state at `END`.
PROBLEMS = {
    "decay": (decays, [1.0, -2.0], np.exp(-END) * np.array([1.0, -2.0])),
    "oscillator": (oscillates, [1.0, 0.0], [np.cos(END), -np.sin(END)]),
    "driven from zero": (is_driven, [0.0, 0.0], [np.sin(END)] * 2),
    "rest": (rests, [1.0, 1.0], [1.0, 1.0]),
}


def solved(name, method, unit, second):
    """Returns evaluations and error, in units of the state and of time."""
    dynamics, y0, exact = PROBLEMS[name]

    def scaled(t, y):
        return dynamics(t / second, y / unit) * (unit / second)

    results = keras_node.odeint(
        scaled,
        tf.constant(y0) * unit,
        (0.0, END * second),
        solver=method(rtol=1e-4, atol=1e-6 * unit),
    )
    error = np.max(np.abs(results.states[-1] / unit - exact))
    return int(results.diagnostics.num_ode_fn_evaluations), error


@pytest.mark.parametrize(
    ("unit", "second"),
    [(1e37, 1.0), (1e-25, 1.0), (1.0, 1e-30), (1.0, 1e-15), (1.0, 1e30)],
)
@pytest.mark.parametrize("name", PROBLEMS)
def test_units_do_not_matter(name, unit, second):
    expected, _ = solved(name, solvers.Tsit5, 1.0, 1.0)
    evaluations, error = solved(name, solvers.Tsit5, unit, second)
    assert error < 3e-5
    # Rounding may shift a step.
    assert abs(evaluations - expected) <= 6


@pytest.mark.parametrize("unit", [1e37, 1e-30])
def test_fixed_steps_take_large_and_small_states(unit):
    results = keras_node.odeint(
        decays,
        tf.ones([2]) * unit,
        tf.cast(tf.linspace(0.0, END, 9), tf.float64),
        solver="rk4",
    )
    # What eight steps leave.
    np.testing.assert_allclose(
        results.states[-1] / unit, [np.exp(-END)] * 2, rtol=1e-3
    )


@pytest.mark.parametrize("adjoint", ["checkpoint", "backsolve"])
def test_gradients_of_large_states_and_short_spans_are_right(adjoint):
    # Cotangents of stages are as small as the product of second and 1 / unit.
    unit, second = 1e12, 1e-12
    y0 = tf.constant([1.0, -2.0]) * unit
    rate = tf.constant(1 / second)
    with tf.GradientTape() as tape:
        tape.watch([y0, rate])
        y1 = keras_node.odeint(
            lambda t, y: -rate * y,
            y0,
            (0.0, END * second),
            solver=solvers.Tsit5(rtol=1e-5, atol=1e-7 * unit),
            adjoint=adjoint,
        ).states[-1]
        total = tf.reduce_sum(y1 / unit)
    y_bar, rate_bar = tape.gradient(total, [y0, rate])
    np.testing.assert_allclose(y_bar * unit, [np.exp(-END)] * 2, rtol=1e-3)
    np.testing.assert_allclose(rate_bar / second, END * np.exp(-END), rtol=1e-3)
