"""Rosenbrock methods: order, stiff reference values, exact gradients."""

import functools
import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_node
from keras_node.solvers import Rodas5P, Rosenbrock23, RosenbrockTableau

METHODS = [Rosenbrock23, Rodas5P]
METHOD = pytest.mark.parametrize("method", METHODS)


def _trees(order):
    """Returns the rooted trees with `order` nodes, as tuples of children."""
    if order == 1:
        return [()]
    found = set()
    for parts in _partitions(order - 1):
        for children in itertools.product(*map(_trees, parts)):
            found.add(tuple(sorted(children)))
    return sorted(found)


def _partitions(total, least=1):
    if not total:
        return [()]
    return [
        (part, *rest)
        for part in range(least, total + 1)
        for rest in _partitions(total - part, part)
    ]


def _size(tree):
    return 1 + sum(map(_size, tree))


def _density(tree):
    return _size(tree) * np.prod([_density(child) for child in tree])


def _stage_weights(tree, alpha, beta):
    """Returns the elementary weight of a tree for each stage (IV.7.11).

    A node with one child meets `alpha + gamma`, one with more `alpha`.
    """
    edge = beta if len(tree) == 1 else alpha
    weights = np.ones(len(alpha))
    for child in tree:
        weights *= edge @ _stage_weights(child, alpha, beta)
    return weights


def _defect(tableau, b, order, theta=1.0):
    alpha, gamma, _ = tableau.standard_form()
    return max(
        abs(
            b @ _stage_weights(tree, alpha, alpha + gamma)
            - theta ** _size(tree) / _density(tree)
        )
        for tree in _trees(order)
    )


@METHOD
def test_a_tableau_has_its_order_and_no_more(method):
    tableau = method.tableau
    b = tableau.standard_form()[2]
    for order in range(1, tableau.order + 1):
        assert _defect(tableau, b, order) < 1e-12
    assert _defect(tableau, b, tableau.order + 1) > 1e-6


@METHOD
def test_the_embedded_solution_has_the_order_of_its_estimate(method):
    tableau = method.tableau
    _, gamma, b = tableau.standard_form()
    embedded = b - np.array(tableau.b_error) @ gamma
    # The estimate of ode23s is an order above its solution.
    order = 3 if method is Rosenbrock23 else 4
    for n in range(1, order + 1):
        assert _defect(tableau, embedded, n) < 1e-12


@METHOD
@pytest.mark.parametrize("theta", [0.3, 0.8])
def test_dense_output_has_its_order(method, theta):
    tableau = method.tableau
    gamma = tableau.standard_form()[1]
    powers = theta ** np.arange(1, len(tableau.b_dense[0]) + 1)
    b = np.array(tableau.b_dense) @ powers @ gamma
    for order in range(1, tableau.dense_order + 1):
        assert _defect(tableau, b, order, theta) < 1e-12


@METHOD
def test_it_is_stable_at_infinity(method):
    alpha, gamma, b = method.tableau.standard_form()
    z = -1e9
    stages = np.linalg.solve(
        np.eye(len(b)) - z * (alpha + gamma), np.ones(len(b))
    )
    assert abs(1.0 + z * b @ stages) < 1e-6


def test_a_tableau_that_contradicts_itself_is_refused():
    with pytest.raises(ValueError, match="`b_dense` must follow"):
        RosenbrockTableau.from_standard(
            alpha=[[0.0]],
            gamma=[[0.5]],
            b=[1.0],
            b_error=[0.0],
            b_dense=[[0.7]],
            order=2,
            control_order=2,
            dense_order=1,
        )


def _smooth(t, y):
    t = tf.reshape(t, [-1, 1])
    return -2.0 * (y - tf.cos(t)) * y + tf.sin(3.0 * t)


@METHOD
def test_the_error_falls_with_the_order_of_the_method(method):
    y0 = tf.constant([[1.0, 2.0]], tf.float64)

    def solve(solver):
        return keras_node.odeint(_smooth, y0, (0.0, 2.0), solver).states[-1]

    exact = solve(keras_node.solvers.Dopri8(rtol=1e-12, atol=1e-13))
    errors = [
        np.max(np.abs(solve(method(step_size=h)) - exact)) for h in (0.1, 0.05)
    ]
    order = np.log2(errors[0] / errors[1])
    assert abs(order - method.tableau.order) < 0.2


def _robertson(k):
    def f(t, y):
        a, b, c = tf.unstack(y, axis=-1)
        rates = [k[0] * a, k[1] * b * c, k[2] * b * b]
        first, second, third = rates
        return tf.stack(
            [second - first, first - second - third, third], axis=-1
        )

    return f


K = np.array([0.04, 1e4, 3e7])


def test_robertsons_values_are_those_of_radau_and_bdf():
    # SciPy's Radau at 1e-12 and BDF at 1e-11 agree in these digits.
    results = keras_node.odeint(
        _robertson(K),
        tf.constant([1.0, 0.0, 0.0], tf.float64),
        (0.0, 1.0, 100.0, 1e11),
        Rodas5P(rtol=1e-8, atol=1e-14),
    )
    expected = [
        [0.966459737333, 3.07462657858e-5, 0.0335095164012],
        [0.617234882396, 6.15359127464e-6, 0.382758964012],
        [2.083340149701255e-8, 8.333360770334713e-14, 0.9999999791665050],
    ]
    np.testing.assert_allclose(results.states[1:3], expected[:2], rtol=1e-7)
    np.testing.assert_allclose(results.states[3], expected[2], rtol=1e-4)
    assert results.diagnostics.num_accepted_steps < 1_000
    attempts = int(
        results.diagnostics.num_accepted_steps
        + results.diagnostics.num_rejected_steps
    )
    assert results.diagnostics.num_jacobian_evaluations == attempts


def test_van_der_pols_value_at_mu_1000_is_that_of_the_test_set():
    def f(t, y):
        x, v = tf.unstack(y, axis=-1)
        return tf.stack([v, 1e3 * (1.0 - x * x) * v - x], axis=-1)

    results = keras_node.odeint(
        f,
        tf.constant([2.0, 0.0], tf.float64),
        (0.0, 2000.0),
        Rodas5P(rtol=1e-8, atol=1e-10),
    )
    # Test set for IVP solvers, Mazzia & Magherini.
    expected = [1.706167732170469, -8.928097010248125e-4]
    np.testing.assert_allclose(results.states[-1], expected, rtol=1e-6)


def _hires(t, y):
    a, b, c, d, e, f, g, h = tf.unstack(y)
    pair = 280.0 * f * h
    return tf.stack(
        [
            -1.71 * a + 0.43 * b + 8.32 * c + 0.0007,
            1.71 * a - 8.75 * b,
            -10.03 * c + 0.43 * d + 0.035 * e,
            8.32 * b + 1.71 * c - 1.12 * d,
            -1.745 * e + 0.43 * f + 0.43 * g,
            -pair + 0.69 * d + 1.71 * e - 0.43 * f + 0.69 * g,
            pair - 1.81 * g,
            -pair + 1.81 * g,
        ]
    )


def _oregonator(t, y):
    a, b, c = tf.unstack(y)
    return tf.stack(
        [
            77.27 * (b + a * (1.0 - 8.375e-6 * a - b)),
            (c - (1.0 + a) * b) / 77.27,
            0.161 * (a - c),
        ]
    )


TEST_SET = {
    "hires": (
        _hires,
        [1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0057],
        321.8122,
        [
            0.7371312573325668e-3,
            0.1442485726316185e-3,
            0.5888729740967575e-4,
            0.1175651343283149e-2,
            0.2386356198831331e-2,
            0.6238968252742796e-2,
            0.2849998395185769e-2,
            0.2850001604814231e-2,
        ],
    ),
    "oregonator": (
        _oregonator,
        [1.0, 2.0, 3.0],
        360.0,
        [1.000814870318523, 1228.178521549917, 132.0554942846706],
    ),
}


@pytest.mark.parametrize("name", TEST_SET)
def test_values_are_those_of_the_test_set(name):
    f, y0, end, expected = TEST_SET[name]
    solver = Rodas5P(rtol=1e-8, atol=1e-10)
    run = tf.function(
        lambda: keras_node.odeint(
            f, tf.constant(y0, tf.float64), (0.0, end), solver
        ).states[-1],
        autograph=False,
    )
    # Test set for IVP solvers, Mazzia & Magherini.
    np.testing.assert_allclose(run(), expected, rtol=1e-6)


# Columns: derivatives by p1, p2, p3 at t = 0.4 (SUNDIALS, cvsRoberts_FSA).
SENSITIVITIES = [
    [-3.5595e-1, 9.5431e-8, -1.5833e-11],
    [3.9025e-4, -2.1309e-10, -5.2900e-13],
    [3.5556e-1, -9.5218e-8, 1.6362e-11],
]


# Those of the first species at t = 4.
LATER = [-1.8761, 2.9614e-6, -4.9334e-10]


def _sensitivities(solver, adjoint, end):
    k = tf.constant(K)
    y0 = tf.constant([1.0, 0.0, 0.0], tf.float64)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(k)
        end = keras_node.odeint(
            _robertson(k), y0, tf.stack([0.0 * end, end]), solver, adjoint
        ).states[-1]
        parts = tf.unstack(end)
    return tf.stack([tape.gradient(part, k) for part in parts])


def test_robertsons_sensitivities_are_those_of_sundials():
    solver = Rodas5P(rtol=1e-8, atol=1e-12)
    run = tf.function(
        lambda end: _sensitivities(solver, "checkpoint", end), autograph=False
    )
    end = tf.constant(0.4, tf.float64)
    np.testing.assert_allclose(run(end), SENSITIVITIES, rtol=1e-4)
    np.testing.assert_allclose(run(10.0 * end)[0], LATER, rtol=1e-4)


def _gradients(solver, adjoint, y0, times, scale):
    """Returns the end of a solve, and its gradient to all three."""
    with tf.GradientTape() as tape:
        tape.watch([y0, times, scale])
        y = keras_node.odeint(
            lambda t, y: scale * _smooth(t, y), y0, times, solver, adjoint
        ).states
        loss = tf.reduce_sum(y[1] ** 2) + tf.reduce_sum(y[-1])
    return y, *tape.gradient(loss, [y0, times, scale])


POINT = (
    tf.constant([[1.0, 2.0], [0.3, 0.7]], tf.float64),
    tf.constant([0.0, 0.8, 2.0], tf.float64),
    tf.constant(1.3, tf.float64),
)


def _compiled_gradients(solver, adjoint):
    # Op by op, the steps of a tight tolerance take a minute.
    run = tf.function(
        lambda *point: _gradients(solver, adjoint, *point), autograph=False
    )
    return run(*POINT)


@functools.cache
def _exact_gradients():
    solver = keras_node.solvers.Dopri8(rtol=1e-11, atol=1e-12)
    return _compiled_gradients(solver, "checkpoint")


@METHOD
@pytest.mark.parametrize(
    ("clocks", "adjoint"),
    [(False, "checkpoint"), (True, "checkpoint"), (False, "direct")],
)
def test_gradients_are_those_of_an_explicit_method(method, clocks, adjoint):
    tolerance = 1e-6 if method is Rosenbrock23 else 1e-9
    solver = method(rtol=tolerance, atol=tolerance, per_sample_steps=clocks)
    for actual, expected in zip(
        _compiled_gradients(solver, adjoint), _exact_gradients(), strict=True
    ):
        np.testing.assert_allclose(actual, expected, rtol=3e3 * tolerance)


@pytest.mark.parametrize("method", METHODS)
def test_it_compiles_with_its_gradient(method):
    solver = method(rtol=1e-4, atol=1e-6, max_num_steps=100)
    run = tf.function(
        lambda: _gradients(solver, "checkpoint", *POINT),
        autograph=False,
        jit_compile=True,
    )
    for actual, expected in zip(
        run(), _gradients(solver, "checkpoint", *POINT), strict=True
    ):
        np.testing.assert_allclose(actual, expected, rtol=1e-9)


def test_python_may_run_at_each_evaluation():
    solver = Rosenbrock23(rtol=1e-2, atol=1e-2)
    expected = _gradients(solver, "checkpoint", *POINT)
    tf.config.run_functions_eagerly(True)
    try:
        actual = _gradients(solver, "checkpoint", *POINT)
    finally:
        tf.config.run_functions_eagerly(False)
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9)


def test_each_sample_equals_itself_alone():
    solver = Rodas5P(per_sample_steps=True)
    y0, times, _ = POINT

    def solve(y0):
        return keras_node.odeint(_smooth, y0, times, solver).states

    together = solve(y0)
    for i in range(2):
        # Products of matrices in batches sum in an order of their own.
        np.testing.assert_allclose(
            together[:, i : i + 1], solve(y0[i : i + 1]), rtol=1e-11
        )


def test_nested_states_and_jumps_are_solved():
    def f(t, y):
        a, b = y["a"], y["b"]
        rate = tf.where(t < 0.5, tf.ones_like(t), 3.0)
        return {"a": -rate * a, "b": tf.stack([a[:, 0], -b[:, 1]], axis=1)}

    y0 = {"a": tf.ones([2, 1], tf.float64), "b": tf.ones([2, 2], tf.float64)}
    for method in METHODS:
        end = keras_node.odeint(
            f,
            y0,
            (0.0, 1.0),
            method(rtol=1e-6, atol=1e-9),
            jump_times=[0.5],
        ).states
        np.testing.assert_allclose(end["a"][-1], np.exp(-2.0), atol=1e-5)
        np.testing.assert_allclose(end["b"][-1, :, 1], np.exp(-1.0), atol=1e-5)


def test_a_singular_matrix_rejects_the_step():
    # At the first step size I - h gamma J is 0.
    size = 1.0 / Rodas5P.tableau.gamma
    solver = Rodas5P(first_step_size=size)
    results = keras_node.odeint(
        lambda t, y: y, tf.ones([1, 1], tf.float64), (0.0, 6.0), solver
    )
    assert results.diagnostics.num_rejected_steps >= 1
    np.testing.assert_allclose(results.states[-1], np.exp(6.0), rtol=1e-2)


def test_dynamics_that_explode_fail_honestly():
    solver = Rodas5P(on_failure="nan")
    results = keras_node.odeint(
        lambda t, y: y * y, tf.ones([1, 1], tf.float64), (0.0, 2.0), solver
    )
    assert results.diagnostics.status < 0
    assert np.isnan(results.states[-1]).all()


def test_a_layer_with_a_stiff_solver_is_trained_and_saved(tmp_path):
    field = keras.Sequential(
        [keras.layers.Dense(4, "tanh"), keras.layers.Dense(2)]
    )
    model = keras.Sequential(
        [
            keras.Input((2,)),
            keras_node.ODELayer(field, solver="rosenbrock23"),
        ]
    )
    model.compile("adam", "mse")
    x = np.ones((4, 2), "float32")
    losses = model.fit(x, 0.0 * x, epochs=3, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded(x), model(x), rtol=1e-6)


def test_a_batch_of_unknown_size_may_have_integrals():
    # The integral of a regularizer has no axis but the batch.
    layer = keras_node.ODELayer(
        keras.layers.Dense(2, "tanh"),
        solver="rosenbrock23",
        regularizers=["kinetic_energy"],
    )
    model = keras.Sequential([keras.Input((2,)), layer])
    model.compile("sgd", "mse")
    x = np.ones((5, 2), "float32")
    history = model.fit(x, x, batch_size=2, verbose=0).history
    assert np.isfinite(history["loss"]).all()


@pytest.mark.parametrize("method", [Rodas5P, Rosenbrock23])
def test_a_start_at_rest_does_not_bound_the_steps(method):
    rate = 1e4
    solver = method(rtol=1e-4, atol=1e-4, max_num_steps=500)

    def follows_cosine(t, y):
        return -rate * (y - tf.cos(t))

    results = keras_node.odeint(
        follows_cosine, tf.ones([1, 1], tf.float64), (0.0, 1.0), solver
    )
    assert results.diagnostics.num_accepted_steps < 200
    # It lags by the slope of the cosine over the rate.
    expected = np.cos(1.0) + np.sin(1.0) / rate
    np.testing.assert_allclose(results.states[-1], expected, atol=1e-4)


def test_a_gradient_of_dynamics_that_concatenate_compiles():
    net = keras.Sequential([keras.layers.Dense(2)])
    layer = keras_node.ODELayer(
        keras_node.ConcatTime(net), solver=Rosenbrock23(step_size=0.5)
    )
    x = tf.constant([[0.3, -0.2]])
    layer(x)

    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(layer(x) ** 2)
        return tape.gradient(loss, x)

    compiled = tf.function(gradient, autograph=False, jit_compile=True)
    np.testing.assert_allclose(compiled(x), gradient(x), rtol=1e-4)


def test_a_nested_state_of_unknown_batch_is_differentiated_under_xla():
    def f(t, y):
        return {"a": y["b"][:, :1] - 3.0 * y["a"], "b": -y["b"]}

    def gradient(a, b):
        with tf.GradientTape() as tape:
            tape.watch(a)
            states = keras_node.odeint(
                f,
                {"a": a, "b": b},
                (0.0, 1.0),
                Rosenbrock23(rtol=1e-6, atol=1e-8),
                "direct",
            ).states
            end = tf.reduce_sum(states["a"][-1])
        return tape.gradient(end, a)

    compiled = tf.function(
        gradient,
        input_signature=[tf.TensorSpec([None, n], tf.float64) for n in (1, 2)],
        autograph=False,
        jit_compile=True,
    )
    a, b = (tf.ones([4, n], tf.float64) for n in (1, 2))
    np.testing.assert_allclose(
        compiled(a, b), np.full((4, 1), np.exp(-3.0)), rtol=1e-3
    )


@pytest.mark.parametrize("adjoint", ["checkpoint", "direct"])
def test_an_empty_batch_has_a_gradient(adjoint):
    layer = keras_node.ODELayer(
        keras.layers.Dense(2), solver="rosenbrock23", adjoint=adjoint
    )
    layer.build((None, 2))
    with tf.GradientTape() as tape:
        y = layer(tf.zeros([0, 2]))
    gradients = tape.gradient(y, layer.trainable_variables)
    assert all(np.all(gradient == 0.0) for gradient in gradients)


def test_backsolve_is_refused():
    with pytest.raises(ValueError, match="no Jacobian is taken"):
        keras_node.odeint(_smooth, POINT[0], (0.0, 1.0), "rodas5p", "backsolve")


def test_a_state_of_unknown_size_is_refused():
    @tf.function(input_signature=[tf.TensorSpec([None, None])], autograph=False)
    def solve(y0):
        return keras_node.odeint(_smooth, y0, (0.0, 1.0), "rodas5p").states

    with pytest.raises(ValueError, match="must know the size of the state"):
        solve(tf.ones([2, 3]))
