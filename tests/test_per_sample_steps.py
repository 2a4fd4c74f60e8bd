"""Per-sample steps: nothing depends on who else is in the batch."""

import functools

import numpy as np
import pytest
import tensorflow as tf

import keras_node
from keras_node import solvers

TIMES = (0.0, 0.4, 1.0)
# Rates: stiff for the first, easy for the others.
STIFF, EASY = [300.0], [0.5, 1.0, 2.0]


def dynamics(t, y):
    """`x' = -rate (x - cos t)`, the rate being part of the state."""
    x, rate = tf.unstack(y, axis=-1)
    return tf.stack([-rate * (x - tf.cos(t)), tf.zeros_like(rate)], axis=-1)


def states_of(rates):
    return tf.constant([[2.0, rate] for rate in rates], tf.float64)


@functools.cache
def solve_in_graph(name):
    solver = type(solvers.get(name))(
        rtol=1e-6, atol=1e-8, per_sample_steps=True
    )

    @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float64)])
    def solve(y0):
        return keras_node.odeint(dynamics, y0, TIMES, solver=solver)

    return solve


def assert_equal_lanes(results, expected, lanes, rtol=1e-12):
    """Asserts that `lanes` of `results` are those of `expected`."""
    # Only the shapes of the reductions differ: rounding, no step size.
    np.testing.assert_allclose(
        results.states.numpy()[:, lanes], expected.states, rtol=rtol
    )
    for ours, theirs in zip(
        results.diagnostics, expected.diagnostics, strict=True
    ):
        np.testing.assert_array_equal(ours.numpy()[lanes], theirs)


@pytest.mark.parametrize("name", ["bosh3", "tsit5", "dopri8"])
def test_a_stiff_neighbour_changes_nothing(name):
    solve = solve_in_graph(name)
    together = solve(states_of(STIFF + EASY))
    assert_equal_lanes(together, solve(states_of(EASY)), slice(1, None))
    # Steps at the limit of stability amplify rounding a little.
    stiff = solve(states_of(STIFF))
    assert_equal_lanes(together, stiff, slice(0, 1), rtol=1e-10)
    evaluations = together.diagnostics.num_ode_fn_evaluations.numpy()
    assert evaluations.shape == (4,)
    assert evaluations[0] > 3 * evaluations[1:].max()
    # Each sample alone has a clock of its own anyway.
    for i, rate in enumerate(EASY, 1):
        assert_equal_lanes(together, solve(states_of([rate])), slice(i, i + 1))


def test_one_clock_makes_everyone_pay_for_the_stiff_sample():
    results = keras_node.odeint(
        dynamics, states_of(STIFF + EASY), TIMES, solver=solvers.Bosh3()
    )
    assert results.diagnostics.num_ode_fn_evaluations.shape == ()
    assert results.diagnostics.num_ode_fn_evaluations > 100


def time_dependent(t, y):
    """`y' = y cos t` for one clock or many."""
    return y * tf.reshape(tf.cos(t), [-1, 1])


GRIDS = np.array(
    [[0.0, 0.1, 0.7, 1.0], [2.0, 2.5, 2.6, 4.0], [-1.0, -0.9, 3.0, 3.1]]
)


@pytest.mark.parametrize("direction", [1, -1])
@pytest.mark.parametrize("name", ["tsit5", "dopri8", "rk4"])
def test_a_grid_for_each_sample_equals_separate_solves(name, direction):
    grids = GRIDS[:, ::direction]
    y0 = tf.constant([[1.0, -2.0]] * 3, tf.float64)
    solver = type(solvers.get(name))(per_sample_steps=True)
    results = keras_node.odeint(time_dependent, y0, grids, solver=solver)
    np.testing.assert_array_equal(results.times, grids.T)
    for i, grid in enumerate(grids):
        alone = keras_node.odeint(
            time_dependent, y0[i : i + 1], grid, solver=type(solver)()
        )
        np.testing.assert_allclose(
            results.states[:, i], alone.states[:, 0], rtol=1e-12
        )
        for ours, theirs in zip(
            results.diagnostics, alone.diagnostics, strict=True
        ):
            assert ours[i] == theirs


MIXED = np.stack([GRIDS[0], GRIDS[1, ::-1], GRIDS[2]])


@pytest.mark.parametrize("num_times", [2, 4])
@pytest.mark.parametrize("name", ["tsit5", "dopri8", "rk4"])
def test_rows_in_opposite_directions_equal_separate_solves(name, num_times):
    grids = MIXED[:, :: 3 // (num_times - 1)]
    y0 = tf.constant([[1.0, -2.0]] * 3, tf.float64)
    for per_sample_steps in (True, False):
        solver = type(solvers.get(name))(per_sample_steps=per_sample_steps)
        results = keras_node.odeint(time_dependent, y0, grids, solver=solver)
        for i, grid in enumerate(grids):
            alone = keras_node.odeint(
                time_dependent, y0[i : i + 1], grid, solver=type(solver)()
            )
            np.testing.assert_allclose(
                results.states[:, i], alone.states[:, 0], rtol=1e-12
            )


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("adjoint", ["checkpoint", "backsolve", "direct"])
def test_gradients_of_rows_in_opposite_directions(adjoint, jit_compile):
    y0 = tf.constant([[1.0], [-2.0], [0.5]], tf.float64)
    solver = solvers.Tsit5(rtol=1e-8, atol=1e-10, max_num_steps=200)

    @tf.function(jit_compile=jit_compile)
    def gradients(y0, grids):
        with tf.GradientTape() as tape:
            tape.watch([y0, grids])
            states = keras_node.odeint(
                time_dependent, y0, grids, solver=solver, adjoint=adjoint
            ).states
            total = tf.reduce_sum(states)
        return tape.gradient(total, [y0, grids])

    y_bar, times_bar = gradients(y0, tf.constant(MIXED))
    # y(t) = y0 exp(sin t - sin t0)
    growth = np.exp(np.sin(MIXED) - np.sin(MIXED[:, :1]))
    np.testing.assert_allclose(
        y_bar, growth.sum(axis=1, keepdims=True), rtol=1e-6
    )
    slopes = y0.numpy() * growth * np.cos(MIXED)
    slopes[:, 0] = -np.cos(MIXED[:, 0]) * (y0.numpy() * growth)[:, 1:].sum(1)
    np.testing.assert_allclose(times_bar, slopes, rtol=1e-5, atol=1e-6)


def test_a_grid_for_each_sample_may_be_a_tensor_of_unknown_size():
    y0 = tf.constant([[1.0, -2.0]] * 3, tf.float64)
    solver = solvers.Tsit5(per_sample_steps=True)

    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.float64)])
    def solve(grids):
        return keras_node.odeint(time_dependent, y0, grids, solver=solver)

    expected = keras_node.odeint(time_dependent, y0, GRIDS, solver=solver)
    results = solve(tf.constant(GRIDS))
    np.testing.assert_allclose(results.states, expected.states, rtol=1e-12)


def test_evaluations_do_not_grow_with_the_number_of_distinct_times():
    random = np.random.default_rng(0)
    inner = np.sort(random.uniform(0.0, 1.0, size=[8, 20]), axis=1)
    ends = np.tile([[0.0, 1.0]], [8, 1])
    distinct = np.concatenate([ends[:, :1], inner, ends[:, 1:]], axis=1)
    y0 = tf.ones([8, 2], tf.float64)
    solver = solvers.Tsit5(per_sample_steps=True)
    few, many = [
        keras_node.odeint(time_dependent, y0, grids, solver=solver)
        for grids in (ends, distinct)
    ]
    for ours, theirs in zip(many.diagnostics, few.diagnostics, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    # The dense output of a solve with rtol=1e-3.
    np.testing.assert_allclose(
        many.states[:, :, 0].numpy().T, np.exp(np.sin(distinct)), rtol=5e-3
    )


def test_only_the_failing_samples_are_nan():
    def fragile(t, y):
        """Has no value where `y < 0`, nor beyond t=0.5 where `y > 10`."""
        t = tf.broadcast_to(t[:, None], tf.shape(y))
        fails = (y < 0) | ((y > 10) & (t > 0.5))
        return tf.where(fails, tf.constant(float("nan"), y.dtype), -0.1 * y)

    y0 = tf.constant([[1.0], [-1.0], [2.0], [20.0]], tf.float64)
    solver = solvers.Tsit5(per_sample_steps=True, on_failure="nan")
    results = keras_node.odeint(fragile, y0, TIMES, solver=solver)
    np.testing.assert_array_equal(results.diagnostics.status, [0, -3, 0, -3])
    states = results.states[:, :, 0].numpy()
    expected = y0[:, 0].numpy() * np.exp(-0.1 * np.array(TIMES))[:, None]
    expected[1:, 1] = np.nan
    expected[2:, 3] = np.nan
    # The default rtol=1e-3.
    np.testing.assert_allclose(states, expected, rtol=1e-3)
    alone = keras_node.odeint(fragile, y0[::2], TIMES, solver=solver)
    assert_equal_lanes(results, alone, slice(0, None, 2))


def test_steps_run_out_for_one_sample_alone():
    solver = solvers.Tsit5(
        per_sample_steps=True, max_num_steps=30, on_failure="nan"
    )
    results = keras_node.odeint(
        dynamics, states_of(EASY + STIFF), TIMES, solver=solver
    )
    np.testing.assert_array_equal(results.diagnostics.status, [0, 0, 0, -1])
    finite = np.isfinite(results.states[-1, :, 0])
    np.testing.assert_array_equal(finite, [True, True, True, False])


@pytest.mark.parametrize("adjoint", ["checkpoint", "backsolve", "direct"])
@pytest.mark.parametrize("shape", [(0, 2), (2, 0)])
def test_empty_states_have_empty_gradients(shape, adjoint):
    state = tf.zeros(shape)
    with tf.GradientTape() as tape:
        tape.watch(state)
        states = keras_node.odeint(
            lambda t, y: -y,
            state,
            (0.0, 0.5, 1.0),
            solvers.Bosh3(per_sample_steps=True),
            adjoint,
        ).states
    assert states.shape == (3, *shape)
    assert tape.gradient(states, state).shape == shape


def test_an_empty_batch_of_a_flow_is_empty():
    # TensorFlow's graph optimizer ended the process here.
    flow = keras_node.CNFBijector(
        lambda t, y: -y, solver=solvers.Bosh3(per_sample_steps=True)
    )
    assert flow.forward(tf.zeros((0, 2))).shape == (0, 2)
