"""`Solver.solve`, the entry of tfp, and what tfp builds on it."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from support import problems
from tensorflow_probability.python.bijectors import ffjord

import keras_node
from keras_node import solvers


def test_solution_times_do_not_hold_the_initial_time():
    problem = problems.cycle()
    times = tf.constant([0.5, 1.0, 1.5], tf.float64)
    solver = solvers.Tsit5(rtol=1e-8, atol=1e-8)
    results = solver.solve(
        problem.f, problem.t0, problem.initial_state(), times
    )
    np.testing.assert_array_equal(results.times, times)
    np.testing.assert_allclose(
        results.states, problem.exact(times), rtol=0, atol=1e-6
    )
    ours = keras_node.odeint(
        problem.f,
        problem.initial_state(),
        (problem.t0, 0.5, 1.0, 1.5),
        solver=solver,
    )
    np.testing.assert_allclose(results.states, ours.states[1:], rtol=1e-14)
    for theirs, own in zip(results.diagnostics, ours.diagnostics, strict=True):
        assert int(theirs) == int(own)
    assert results.diagnostics.num_jacobian_evaluations == 0
    assert results.diagnostics.num_matrix_factorizations == 0
    assert results.diagnostics.success


@pytest.mark.parametrize("method", [solvers.Tsit5, solvers.Dopri8])
def test_solver_may_choose_the_times(method):
    problem = problems.cycle()
    results = method(rtol=1e-6, atol=1e-6).solve(
        problem.f,
        problem.t0,
        problem.initial_state(),
        tfp.math.ode.ChosenBySolver(tf.constant(1.5, tf.float64)),
    )
    times = results.times.numpy()
    assert len(times) == results.diagnostics.num_accepted_steps
    assert times[0] > problem.t0
    assert times[-1] == 1.5
    assert np.all(np.diff(times) > 0)
    # Ten times the tolerance: errors of the steps add up.
    np.testing.assert_allclose(
        results.states, problem.exact(times), rtol=0, atol=1e-5
    )


def test_nested_state_and_float32_keep_structure_and_dtype():
    results = solvers.Tsit5().solve(
        lambda t, y: {"a": -y["a"], "b": (t * y["b"][0],)},
        0.0,
        {"a": tf.ones([2]), "b": (tf.ones([3, 1]),)},
        [0.5, 1.0],
    )
    assert results.times.dtype == tf.float32
    a, b = results.states["a"], results.states["b"][0]
    assert a.shape == (2, 2)
    assert b.shape == (2, 3, 1)
    # The default rtol=1e-3.
    np.testing.assert_allclose(a[-1], np.exp([-1.0, -1.0]), rtol=1e-3)
    np.testing.assert_allclose(b[-1], np.full([3, 1], np.exp(0.5)), rtol=1e-3)


def test_gradient_flows_through_the_adjoint_of_tfp():
    y0 = tf.constant([1.0, 0.5], tf.float64)
    rate = tf.Variable(0.7, dtype=tf.float64)
    solver = solvers.Tsit5(rtol=1e-9, atol=1e-9)

    @tf.function
    def gradient():
        with tf.GradientTape() as tape:
            tape.watch(y0)
            results = solver.solve(
                lambda t, y: -rate * y * y, 0.0, y0, [0.5, 1.0]
            )
            loss = tf.reduce_sum(results.states[-1])
        return tape.gradient(loss, [y0, rate])

    # y(1) = y0 / (1 + rate y0)
    y_bar, rate_bar = gradient()
    denominator = 1 + 0.7 * y0.numpy()
    np.testing.assert_allclose(y_bar, 1 / denominator**2, rtol=1e-6)
    np.testing.assert_allclose(
        rate_bar, np.sum(-((y0.numpy() / denominator) ** 2)), rtol=1e-6
    )


def test_internal_state_continues_a_solve():
    problem = problems.cycle()
    solver = solvers.Tsit5(rtol=1e-8, atol=1e-8)
    first = solver.solve(problem.f, 0.3, problem.initial_state(), [0.9])
    options = {
        "ode_fn": problem.f,
        "initial_time": 0.9,
        "initial_state": first.states[-1],
        "solution_times": [1.5],
    }
    cold = solver.solve(**options)
    warm = solver.solve(
        previous_solver_internal_state=first.solver_internal_state, **options
    )
    whole = solver.solve(problem.f, 0.3, problem.initial_state(), [0.9, 1.5])
    np.testing.assert_allclose(
        warm.states[-1], whole.states[-1], rtol=0, atol=1e-7
    )
    # It knows how long its steps may be; a cold start feels its way.
    assert float(first.solver_internal_state.step_size) > 0
    assert (
        warm.diagnostics.num_accepted_steps
        < cold.diagnostics.num_accepted_steps
    )


def test_chosen_by_solver_needs_one_clock():
    solver = solvers.Tsit5(per_sample_steps=True)
    with pytest.raises(ValueError, match="`ChosenBySolver` needs one clock"):
        solver.solve(
            lambda t, y: -y,
            0.0,
            tf.ones([2, 1]),
            tfp.math.ode.ChosenBySolver(1.0),
        )


def test_per_sample_steps_through_the_entry_of_tfp():
    y0 = tf.constant([[1.0], [2.0]], tf.float64)
    results = solvers.Tsit5(per_sample_steps=True).solve(
        lambda t, y: -y * t[:, None], 0.0, y0, [1.0, 2.0]
    )
    np.testing.assert_array_equal(results.times, [1.0, 2.0])
    assert results.diagnostics.status.shape == (2,)
    # The default rtol=1e-3.
    np.testing.assert_allclose(
        results.states[:, :, 0],
        np.exp([[-0.5], [-2.0]]) * [1.0, 2.0],
        rtol=2e-3,
    )


def test_ffjord_inverts_itself_and_its_log_det_is_that_of_the_jacobian():
    weights = tf.constant([[0.6, -0.9], [0.4, 0.3]], tf.float64)

    def field(t, y):
        return tf.tanh(tf.linalg.matvec(weights, y) + 0.2) + 0.1 * y**2

    solver = solvers.Tsit5(rtol=1e-7, atol=1e-7)
    flow = tfp.bijectors.FFJORD(
        field,
        ode_solve_fn=solver.solve,
        trace_augmentation_fn=ffjord.trace_jacobian_exact,
        dtype=tf.float64,
    )
    # A point, and its neighbours for central differences.
    step = 1e-4
    point = np.array([0.3, -0.7])
    x = np.stack(
        [point, *(point + step * np.eye(2)), *(point - step * np.eye(2))]
    )

    @tf.function
    def there_and_back(x):
        y = flow.forward(x)
        log_det = flow.forward_log_det_jacobian(x, event_ndims=1)
        # A copy, which tfp's cache does not know.
        return y, log_det, flow.inverse(tf.identity(y))

    y, log_det, back = there_and_back(tf.constant(x))
    assert np.min(np.abs(y - x)) > 1e-2
    np.testing.assert_allclose(back, x, rtol=0, atol=1e-6)
    jacobian = (y[1:3] - y[3:5]).numpy().T / (2 * step)
    # Rounding and the error of the solve, divided by the step.
    np.testing.assert_allclose(
        log_det[0], np.linalg.slogdet(jacobian)[1], rtol=0, atol=1e-4
    )


@pytest.mark.parametrize("name", ["rk4", "tsit5"])
@pytest.mark.parametrize("y0", [[1, 2], 1 + 2j], ids=["integer", "complex"])
def test_a_state_that_is_not_float_is_refused_in_one_sentence(name, y0):
    with pytest.raises(TypeError, match="`initial_state` must.*Received: init"):
        solvers.get(name).solve(lambda t, y: y, 0.0, tf.constant(y0), [1.0])
