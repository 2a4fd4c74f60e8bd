"""The solvers of tfp under this package's contract: right, and they end."""

import numpy as np
import pytest
import tensorflow as tf
from support import problems

import keras_node
from keras_node import solvers

each_method = pytest.mark.parametrize(
    "method",
    [solvers.DormandPrince, solvers.BDF],
    ids=lambda method: method.__name__,
)


def is_nan(t, y):
    return float("nan") * y


def nan_after_half(t, y):
    return tf.where(t > 0.5, float("nan") * y, -y)


def state():
    return tf.ones([2], tf.float64)


@pytest.mark.parametrize("direction", [1, -1])
@each_method
def test_closed_form_is_met_in_both_directions(method, direction):
    problem = problems.cycle()
    times = np.linspace(problem.t0, problem.t1, 4)[::direction]
    results = tf.function(keras_node.odeint)(
        problem.f,
        problem.initial_state(times[0]),
        times,
        solver=method(rtol=1e-5, atol=1e-6),
    )
    assert results.diagnostics.status == 0
    assert results.diagnostics.num_ode_fn_evaluations > 10
    # BDF controls the error of a step; a hundred of them add up.
    np.testing.assert_allclose(
        results.states, problem.exact(times), rtol=0, atol=1e-3
    )


@pytest.mark.parametrize("dynamics", [is_nan, nan_after_half])
@each_method
def test_solvers_of_tfp_end_on_nan(method, dynamics):
    solve = tf.function(keras_node.odeint)
    # tfp's first steps are 1e-3, 1e-2 and 1e-1; the next one meets the NaN.
    times = (0.0, 0.05, 0.25, 1.0)
    solver = method(max_num_steps=40, on_failure="nan")
    results = solve(dynamics, state(), times, solver=solver)
    assert results.diagnostics.status in (-1, -3)
    states = results.states[:, 0].numpy()
    assert np.isnan(states[-1])
    finite = np.isfinite(states)
    np.testing.assert_allclose(
        states[finite], np.exp(-np.array(times)[finite]), rtol=1e-2
    )
    if dynamics is nan_after_half and method is solvers.DormandPrince:
        np.testing.assert_array_equal(finite, [True, True, False, False])


@each_method
def test_solvers_of_tfp_raise_on_nan(method):
    with pytest.raises(
        tf.errors.InvalidArgumentError, match="not finite|`max_num_steps`"
    ):
        tf.function(keras_node.odeint)(
            is_nan, state(), (0.0, 1.0), solver=method(max_num_steps=40)
        )


@each_method
def test_solvers_of_tfp_stop_after_max_num_steps(method):
    solver = method(max_num_steps=4, first_step_size=1e-6, on_failure="nan")
    results = tf.function(keras_node.odeint)(
        lambda t, y: -100 * (y - tf.cos(10 * t)),
        state(),
        (0.0, 10.0),
        solver=solver,
    )
    assert results.diagnostics.status == -1
    assert np.all(np.isnan(results.states[-1]))
    assert results.diagnostics.num_accepted_steps == -1
    assert results.diagnostics.num_rejected_steps == -1
