"""Gradients where the state is at rest, which has no error to bound steps."""

import numpy as np
import pytest
import tensorflow as tf

import keras_node
from keras_node import solvers

END = 1.0
ADAPTIVE = [solvers.Bosh3, solvers.Dopri5, solvers.Tsit5, solvers.Dopri8]


def decays(t, y):
    return -50.0 * y


def diffuses(t, y):
    return 20.0 * (tf.roll(y, 1, -1) + tf.roll(y, -1, -1) - 2.0 * y)


def spreads(t, y):
    """An epidemic that dies out: a case infects 0.75 others."""
    susceptible, infected, _ = tf.unstack(y, axis=-1)
    infections, recoveries = 30.0 * susceptible * infected, 40.0 * infected
    return tf.stack([-infections, infections - recoveries, recoveries], -1)


def gradient(dynamics, y0, weights, solver):
    y0 = tf.constant(y0, tf.float64)

    @tf.function
    def compute():
        with tf.GradientTape() as tape:
            tape.watch(y0)
            results = keras_node.odeint(dynamics, y0, (0.0, END), solver=solver)
            loss = tf.reduce_sum(results.states[-1] * weights)
        return tape.gradient(loss, y0)

    return compute().numpy()


@pytest.mark.parametrize("per_sample_steps", [False, True])
@pytest.mark.parametrize("method", ADAPTIVE)
def test_a_decayed_state_has_the_gradient_of_the_decay(
    method, per_sample_steps
):
    solver = method(per_sample_steps=per_sample_steps)
    actual = gradient(decays, [[0.0, 0.0], [1e-18, 0.0]], 1.0, solver)
    # Steps damp the less the longer they are: e^-50 is 2e-22.
    np.testing.assert_array_less(np.abs(actual), 1e-11)


def test_an_empty_field_diffuses_what_is_put_into_it():
    weights = np.eye(8)[0]
    actual = gradient(diffuses, np.zeros((1, 8)), weights, solvers.Tsit5())
    rates = 40.0 * (np.cos(2 * np.pi * np.arange(8) / 8) - 1.0)
    expected = np.fft.ifft(np.exp(END * rates)).real
    np.testing.assert_allclose(actual[0], expected, atol=1e-4)


def test_a_first_case_takes_three_with_it():
    weights = np.array([1.0, 0.0, 0.0])
    actual = gradient(spreads, [[1.0, 0.0, 0.0]], weights, solvers.Tsit5())
    # di/dt = -10 i, ds/dt = -30 i: after one unit of time 1e-4 are left.
    np.testing.assert_allclose(actual, [[1.0, -3.0, 0.0]], atol=1e-3)


def test_a_sample_at_rest_does_not_slow_the_others():
    counts = []
    for y0 in ([[1.0, 2.0], [0.0, 0.0]], [[1.0, 2.0]]):
        results = keras_node.odeint(
            decays,
            tf.constant(y0),
            (0.0, 1.0),
            solver=solvers.Tsit5(per_sample_steps=True),
        )
        counts.append(int(results.diagnostics.num_ode_fn_evaluations[0]))
    assert counts[0] == counts[1]


def test_dynamics_that_fail_beside_the_state_of_rest_do_not_bound_steps():
    results = keras_node.odeint(
        lambda t, y: tf.sqrt(tf.abs(y) - y) * tf.sqrt(-y),
        tf.zeros((1, 2)),
        (0.0, 1.0),
    )
    np.testing.assert_array_equal(results.states[-1], np.zeros((1, 2)))


def test_what_wakes_from_rest_is_seen():
    """A pulse at half time, of a tenth of the interval."""
    results = keras_node.odeint(
        lambda t, y: 5.0 * tf.exp(-(((t - 0.5) / 0.05) ** 2)) * tf.ones_like(y),
        tf.zeros((1, 2), tf.float64),
        (0.0, 1.0),
    )
    expected = 5.0 * 0.05 * np.sqrt(np.pi)
    np.testing.assert_allclose(results.states[-1], expected, rtol=5e-3)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_state_that_stays_zero_needs_no_absolute_tolerance(dtype):
    solver = solvers.Tsit5(rtol=1e-4, atol=0.0)
    y0 = tf.constant([0.0, 1.0], dtype)
    end = keras_node.odeint(lambda t, y: -y, y0, (0.0, 1.0), solver).states[-1]
    np.testing.assert_allclose(end, [0.0, np.exp(-1.0)], rtol=1e-4)
