"""Solutions to evaluate anywhere: `odeint(..., dense=True)`."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_node

Y0 = np.array([[1.0], [2.0]])
QUERIES = np.linspace(0.0, 2.0, 23)
TSIT5 = keras_node.solvers.Tsit5(rtol=1e-7, atol=1e-9, max_num_steps=64)
CLOCKS = keras_node.solvers.Dopri8(
    rtol=1e-7, atol=1e-9, max_num_steps=64, per_sample_steps=True
)
SOLVERS = {"one_clock": TSIT5, "clocks": CLOCKS}
ADJOINTS = {
    "checkpoint": "checkpoint",
    "states_alone": keras_node.adjoints.CheckpointAdjoint(2, memory_limit=0),
    "direct": "direct",
}


def _f(t, y):
    return -y * tf.sin(3.0 * tf.reshape(t, [-1, 1]))


def _exact(t):
    """Returns `(T, batch, 1)`."""
    return Y0 * np.exp((np.cos(3.0 * t) - 1.0) / 3.0)[:, None, None]


def _solve(times=(0.0, 2.0), solver=TSIT5, adjoint="auto", y0=None, **options):
    y0 = tf.constant(Y0) if y0 is None else y0
    return keras_node.odeint(
        _f, y0, times, solver, adjoint, dense=True, **options
    )


def _check_values_and_gradients(run):
    """Checks what `run(y0, end, queries)` returns against the closed form."""
    y, (y0_bar, end_bar, queries_bar) = run(
        tf.constant(Y0),
        tf.constant(2.0, tf.float64),
        tf.constant(QUERIES),
    )
    expected = _exact(QUERIES)
    slopes = -expected * np.sin(3.0 * QUERIES)[:, None, None]
    np.testing.assert_allclose(y, expected, rtol=1e-6)
    np.testing.assert_allclose(
        y0_bar, (2 * expected**2 / Y0).sum(0) + expected[-1] / Y0, rtol=1e-5
    )
    np.testing.assert_allclose(end_bar, slopes[-1].sum(), atol=2e-4)
    np.testing.assert_allclose(
        queries_bar, (2 * expected * slopes).sum((1, 2)), atol=2e-4
    )


def _make_run(solver, adjoint, times):
    def run(y0, end, queries):
        with tf.GradientTape() as tape:
            tape.watch([y0, end, queries])
            results = _solve(tf.stack([*times, end]), solver, adjoint, y0=y0)
            y = results.interpolate(queries)
            loss = tf.reduce_sum(y**2) + tf.reduce_sum(results.states[-1])
        return y, tape.gradient(loss, [y0, end, queries])

    return run


@pytest.mark.parametrize("times", [(0.0,), (0.0, 0.5)])
@pytest.mark.parametrize("adjoint", ADJOINTS)
@pytest.mark.parametrize("solver", SOLVERS)
def test_values_and_gradients_are_those_of_the_closed_form(
    solver, adjoint, times
):
    _check_values_and_gradients(
        _make_run(SOLVERS[solver], ADJOINTS[adjoint], times)
    )


@pytest.mark.parametrize("jit_compile", [False, True])
def test_they_are_so_in_a_graph(jit_compile):
    run = _make_run(TSIT5, "checkpoint", (0.0, 0.5))
    _check_values_and_gradients(
        tf.function(run, autograph=False, jit_compile=jit_compile)
    )


def test_results_of_a_function_are_interpolated_outside():
    results = tf.function(_solve, autograph=False)()
    assert isinstance(results, type(_solve()))
    y = results.interpolate(QUERIES)
    np.testing.assert_allclose(y, _exact(QUERIES), rtol=1e-6)


def test_requested_times_get_the_states_themselves():
    times = (0.0, 0.3, 1.1, 2.0)
    results = _solve(times)
    np.testing.assert_allclose(
        results.interpolate(times), results.states, rtol=1e-12
    )


@pytest.mark.parametrize("solver", SOLVERS)
def test_each_sample_may_be_asked_at_times_of_its_own(solver):
    results = _solve(solver=SOLVERS[solver])
    own = np.stack([QUERIES, 2.0 - QUERIES])
    y = results.interpolate(own)
    assert y.shape == (23, 2, 1)
    for i in range(2):
        alone = results.interpolate(own[i])
        np.testing.assert_allclose(y[:, i], alone[:, i], rtol=1e-12)


def test_backwards_in_time_too():
    y0 = tf.constant(_exact(np.array([2.0]))[0])
    results = _solve((2.0, 0.0), y0=y0)
    np.testing.assert_allclose(
        results.interpolate(QUERIES), _exact(QUERIES), rtol=1e-5
    )


def test_outside_the_solve_and_behind_a_failure_it_is_nan():
    results = _solve()
    outside = results.interpolate([-0.1, 1.0, 2.1])
    np.testing.assert_array_equal(
        np.isnan(outside[:, 0, 0]), [True, False, True]
    )
    results = keras_node.odeint(
        lambda t, y: y * y,  # Explodes at 1.
        tf.ones([1], tf.float64),
        (0.0, 2.0),
        keras_node.solvers.Tsit5(on_failure="nan"),
        dense=True,
    )
    y = results.interpolate([0.5, 1.5])
    np.testing.assert_allclose(y[0], [2.0], rtol=1e-2)
    assert np.isnan(y[1])


def test_the_last_time_is_inside_though_steps_sum_to_less():
    # -1 + 1.2 is 0.19999999999999996.
    results = keras_node.odeint(
        lambda t, y: 0.0 * y, tf.ones([1]), (-1.0, 0.2), dense=True
    )
    np.testing.assert_array_equal(results.interpolate([-1.0, 0.2]), [[1], [1]])


@pytest.mark.parametrize("adjoint", ["checkpoint", "direct"])
def test_a_solve_that_fails_at_once_is_nan(adjoint):
    results = keras_node.odeint(
        lambda t, y: np.nan * y,
        tf.ones([1]),
        (0.0, 1.0),
        keras_node.solvers.Tsit5(on_failure="nan"),
        adjoint,
        dense=True,
    )
    y = results.interpolate([0.0, 0.5, 1.0])
    np.testing.assert_array_equal(np.isnan(y[:, 0]), [False, True, True])


def test_a_time_outside_does_not_spoil_the_gradients_of_others():
    y0 = tf.constant(Y0)
    for _ in range(2):  # The second solve is by a graph of its own.
        with tf.GradientTape() as tape:
            tape.watch(y0)
            y = _solve(y0=y0).interpolate([1.0, 3.0])
            y = tf.where(tf.math.is_nan(y), tf.zeros_like(y), y)
        gradient = tape.gradient(y, y0)
        expected = _exact(np.array([1.0]))[0] / Y0
        np.testing.assert_allclose(gradient, expected, rtol=1e-6)


def test_no_polynomial_spans_a_jump():
    def f(t, y):
        return tf.where(t < 0.5, tf.zeros_like(y), 1.0)

    results = keras_node.odeint(
        f, tf.zeros([1], tf.float64), (0.0, 1.0), dense=True, jump_times=[0.5]
    )
    np.testing.assert_allclose(
        results.interpolate(QUERIES / 2)[:, 0],
        np.maximum(QUERIES / 2 - 0.5, 0.0),
        atol=1e-12,
    )


def test_a_nested_state_keeps_its_structure_and_dtypes():
    results = keras_node.odeint(
        lambda t, y: {"a": -y["a"], "b": -2.0 * y["b"]},
        {"a": tf.ones([2]), "b": tf.ones([2, 3], tf.float64)},
        (0.0, 1.0),
        dense=True,
    )
    y = results.interpolate([0.5])
    assert (y["a"].dtype, y["b"].dtype) == ("float32", "float64")
    np.testing.assert_allclose(y["b"][0], np.exp(-1.0) * np.ones((2, 3)), 1e-3)


@pytest.mark.parametrize(
    ("solver", "adjoint"),
    [("rk4", "auto"), ("bdf", "auto"), ("tsit5", "backsolve")],
)
def test_what_keeps_no_steps_is_refused(solver, adjoint):
    with pytest.raises(ValueError, match="`dense=True` needs an adaptive"):
        _solve(solver=solver, adjoint=adjoint)


@pytest.mark.parametrize("make", [tf.Variable, keras.Variable])
def test_times_to_interpolate_at_may_hold_a_variable(make):
    variable = make(0.4, dtype="float64")
    with tf.GradientTape() as tape:
        y = _solve().interpolate((0.1, variable))
    np.testing.assert_allclose(y, _exact(np.array([0.1, 0.4])), rtol=1e-6)
    source = variable.value if make is keras.Variable else variable
    slope = -Y0.sum() * np.sin(1.2) * np.exp((np.cos(1.2) - 1.0) / 3.0)
    np.testing.assert_allclose(tape.gradient(y, source), slope, atol=2e-4)
    y = _solve().interpolate(make([0.1, 0.4], dtype="float64"))
    np.testing.assert_allclose(y, _exact(np.array([0.1, 0.4])), rtol=1e-6)


def test_interpolation_without_a_dense_solution_is_refused():
    results = keras_node.odeint(_f, tf.constant(Y0), (0.0, 1.0))
    with pytest.raises(ValueError, match="dense=True"):
        results.interpolate([0.5])
    with pytest.raises(ValueError, match="`t` must have the shape"):
        _solve().interpolate(0.5)
