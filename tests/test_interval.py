"""Where the dynamics are evaluated: never outside the interval."""

import numpy as np
import pytest
import tensorflow as tf
from support.strategies import OWN_SOLVERS

import keras_node
from keras_node import solvers


def times_of_evaluations(dynamics, y0, times, solver):
    """Returns the times at which an eager solve evaluates `dynamics`."""
    seen = []

    def recorded(t, y):
        # Python itself runs only once, when the dynamics are traced.
        tf.py_function(lambda t: seen.extend(np.ravel(t)), [t], [])
        return dynamics(t, y)

    results = keras_node.odeint(recorded, y0, times, solver=solver)
    lanes = results.diagnostics.num_ode_fn_evaluations
    assert len(seen) >= np.max(lanes)
    return np.array(seen)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("times", [(0.1, 0.17, 0.3), (0.3, 0.17, 0.1)])
@pytest.mark.parametrize("name", OWN_SOLVERS)
def test_dynamics_are_not_evaluated_outside_the_interval(name, times, dtype):
    # 0.1 + (0.3 - 0.1) rounds to 0.30000000000000004.
    seen = times_of_evaluations(
        lambda t, y: -30 * (y - t),
        tf.ones([2], dtype),
        times,
        solvers.get(name),
    )
    assert seen[0] == np.asarray(times[0], dtype)
    assert np.all(seen >= np.asarray(0.1, dtype))
    assert np.all(seen <= np.asarray(0.3, dtype))


@pytest.mark.parametrize("rate", [0.0, 1e-12])
@pytest.mark.parametrize("direction", [1, -1])
@pytest.mark.parametrize("name", ["bosh3", "tsit5", "dopri8"])
def test_slow_dynamics_do_not_make_the_first_step_overshoot(
    name, direction, rate
):
    times = [1e-7 * direction, 1.1e-6 * direction]
    seen = times_of_evaluations(
        lambda t, y: rate * y, tf.ones([2], tf.float64), times, name
    )
    assert np.min(seen * direction) == 1e-7
    assert np.max(seen * direction) <= 1.1e-6


def test_each_sample_stays_in_its_own_interval():
    lows, highs = np.array([0.1, -2.0, 5.0]), np.array([0.3, 1.0, 5.001])
    seen = times_of_evaluations(
        lambda t, y: -y * t[:, None],
        tf.ones([3, 2], tf.float64),
        np.stack([lows, highs], axis=1),
        solvers.Tsit5(per_sample_steps=True),
    ).reshape([-1, 3])
    np.testing.assert_array_equal(seen.min(axis=0), lows)
    np.testing.assert_array_equal(seen.max(axis=0), highs)


def test_explosive_dynamics_do_not_make_the_first_step_overshoot():
    # The Euler step that measures the second derivative overflows.
    seen = times_of_evaluations(
        lambda t, y: 1e3 * y,
        tf.ones([1], tf.float64),
        (0.0, 1e-3),
        solvers.Tsit5(),
    )
    assert seen.min() == 0.0
    assert seen.max() == 1e-3


def test_a_first_step_over_the_whole_interval_does_not_round_past_its_end():
    # 0.1 + (0.3 - 0.1) rounds to 0.30000000000000004.
    seen = times_of_evaluations(
        lambda t, y: 1e-3 * y, tf.ones([1], tf.float64), (0.1, 0.3), "tsit5"
    )
    assert seen.max() == 0.3


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("times", [(0.1, 0.3), (0.3, 0.1)])
def test_bdf_does_not_round_past_the_end(times, dtype):
    seen = []

    def recorded(t, y):
        if hasattr(t, "numpy"):
            seen.append(t.numpy())
        return -y

    solver = solvers.BDF()
    leaves = [tf.ones([2], dtype)]
    result = solver.integrate(
        lambda t, y: [recorded(t, y[0])],
        tf.constant(times, tf.float64),
        leaves,
    )
    assert int(result.diagnostics.status) == 0
    assert len(seen) > 2
    assert np.min(seen) >= np.asarray(0.1, dtype)
    assert np.max(seen) <= np.asarray(0.3, dtype)
