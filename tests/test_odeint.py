"""Tests of the one differentiable solve: what it returns and what it refuses.

Accuracy is tested with the solvers, gradients with the adjoints.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf
from support.gradients import end, float64, tight

import keras_node
from keras_node import odeint
from keras_node.solvers import RK4, Tsit5


def decay(t, y):
    return -y


def test_states_are_time_major_and_begin_with_the_initial_state():
    state = {"a": tf.constant([[1.0, 2.0]]), "b": [tf.constant([3.0])]}
    results = odeint(
        lambda t, s: tf.nest.map_structure(tf.negative, s),
        state,
        (0.0, 0.3, 1.0),
    )
    tf.nest.assert_same_structure(results.states, state)
    assert results.states["a"].shape == (3, 1, 2)
    np.testing.assert_array_equal(results.states["a"][0], state["a"])
    np.testing.assert_array_equal(results.states["b"][0][0], state["b"][0])
    assert results.times.dtype == tf.float64
    np.testing.assert_array_equal(results.times, [0.0, 0.3, 1.0])


def test_diagnostics_count_the_calls_of_the_dynamics():
    calls = tf.Variable(0)

    def dynamics(t, y):
        calls.assign_add(1)
        return -y

    # Tracing adds to the variable in a graph that never runs.
    results = odeint(dynamics, float64([1.0]), (0.0, 1.0), tight())
    diagnostics = results.diagnostics
    assert int(diagnostics.num_ode_fn_evaluations) == int(calls)
    assert int(diagnostics.num_accepted_steps) > 0
    assert int(diagnostics.status) == 0


@pytest.mark.parametrize("dtype", ("float16", "bfloat16"))
def test_half_precision_state_is_solved_in_float32_and_comes_back(dtype):
    state = tf.ones([2], dtype)
    seen = []

    def dynamics(t, y):
        seen.extend([t.dtype, y.dtype])
        return -y

    y = odeint(dynamics, state, (0.0, 1.0)).states[-1]
    assert y.dtype == dtype
    # Dynamics see what the user gave.
    assert set(seen) == {tf.as_dtype(dtype)}
    # Two units in the last place of bfloat16 at 0.37.
    np.testing.assert_allclose(tf.cast(y, tf.float64), np.exp(-1), rtol=8e-3)


def test_dynamics_get_a_time_in_the_dtype_of_the_state():
    shapes = []

    def dynamics(t, y):
        shapes.append((t.dtype, t.shape))
        return -y

    odeint(dynamics, tf.ones([2, 1]), float64([0.0, 1.0]))
    assert set(shapes) == {(tf.float32, tf.TensorShape(()))}
    shapes.clear()
    odeint(dynamics, tf.ones([2, 1]), (0, 1), Tsit5(per_sample_steps=True))
    assert set(shapes) == {(tf.float32, tf.TensorShape((2,)))}


class Scale(keras.layers.Layer):
    """A vector field of time and state."""

    def call(self, t, y):
        return -2.0 * t * y


def functional():
    t, y = keras.Input(()), keras.Input((1,))
    slope = keras.ops.multiply(-2.0 * keras.ops.reshape(t, (-1, 1)), y)
    return keras.Model([t, y], slope)


@pytest.mark.parametrize(
    "make", (lambda: lambda t, y: -2.0 * t * y, Scale, functional)
)
def test_each_kind_of_dynamics_of_time_and_state_is_solved(make):
    y = odeint(make(), tf.ones([1, 1]), (0.0, 1.0), RK4(step_size=0.05))
    np.testing.assert_allclose(y.states[-1], [[np.exp(-1.0)]], rtol=1e-5)


def test_layer_of_the_state_alone_is_solved():
    layer = keras.layers.Rescaling(-1.0)
    y = odeint(layer, tf.ones([1, 1]), (0.0, 1.0), RK4(step_size=0.05))
    np.testing.assert_allclose(y.states[-1], [[np.exp(-1.0)]], rtol=1e-5)


@pytest.mark.parametrize("adjoint", ("checkpoint", "direct", "backsolve"))
def test_python_if_on_time_works_inside_a_function(adjoint):
    def dynamics(t, y):
        if t > 0.5:
            slope = tf.ones_like(y)
        else:
            slope = -tf.ones_like(y)
        return slope * y

    @tf.function
    def run(y):
        with tf.GradientTape() as tape:
            tape.watch(y)
            value = end(dynamics, y, (0.0, 1.0), RK4(step_size=0.125), adjoint)
        return value, tape.gradient(value, y)

    value, slope = run(float64([3.0]))
    # Down for half of the time, then up; steps of 1/8 end at the switch, but
    # the stages at its ends belong to the wrong side: first order there.
    np.testing.assert_allclose(value, [3.0], rtol=0.05)
    np.testing.assert_allclose(slope, value / 3.0, rtol=0.01)


def test_failure_raises_what_happened_and_what_to_change():
    with pytest.raises(
        tf.errors.InvalidArgumentError, match="(?s)max_num_steps.*Received"
    ):
        odeint(decay, float64([1.0]), (0.0, 1.0), tight(max_num_steps=3))


@pytest.mark.parametrize(
    "times",
    (
        (0.0,),
        (),
        (0.0, 0.0),
        (0.0, 1.0, 0.5),
        (0.0, float("nan")),
        (float("nan"), 1.0),
        (0.0, 1.0, float("nan")),
        (0.0, float("inf")),
        0.5,
        ("a", "b"),
        (((0.0, 1.0),),),
    ),
)
def test_times_that_are_not_monotonic_floats_are_refused(times):
    with pytest.raises(ValueError, match="`times` must.*Received: times="):
        odeint(decay, tf.ones([2]), times)


@pytest.mark.parametrize("mode", ("eager", "function"))
def test_one_row_of_times_that_is_not_monotonic_is_refused(mode):
    times = float64([[0.0, 1.0, 2.0], [1.0, 0.0, 0.5]])

    def run(times):
        return odeint(decay, tf.ones([2, 1]), times).states

    error = tf.errors.InvalidArgumentError if mode == "function" else ValueError
    with pytest.raises(error, match="`times` must.*Received: times="):
        (tf.function(run) if mode == "function" else run)(times)


@pytest.mark.parametrize("dtype", ("bfloat16", "float16", "int32"))
@pytest.mark.parametrize("form", ("eager", "numpy", "function"))
def test_times_of_any_number_are_taken(form, dtype):
    run = tf.function(odeint) if form == "function" else odeint
    times = tf.cast([0.0, 1.0, 3.0], dtype)
    times = times.numpy() if form == "numpy" else times
    results = run(decay, float64([1.0]), times, tight())
    np.testing.assert_array_equal(results.times, [0.0, 1.0, 3.0])
    np.testing.assert_allclose(results.states[-1], [np.exp(-3.0)], rtol=1e-7)


@pytest.mark.parametrize(
    "times",
    (
        (0.0, 1.0, 0.5),
        (0.0, 0.0),
        (0.0, float("nan")),
        (0.0, float("inf")),
    ),
)
@pytest.mark.parametrize("mode", ("eager", "function"))
def test_times_known_only_at_run_time_are_checked_then(mode, times):
    def run(times):
        return odeint(decay, tf.ones([2]), times).states

    if mode == "function":
        run = tf.function(run, autograph=False)
    # A graph can raise no other error.
    error = tf.errors.InvalidArgumentError if mode == "function" else ValueError
    with pytest.raises(error, match="`times` must.*Received: times="):
        run(float64(times))


def test_tensor_of_one_time_is_refused():
    with pytest.raises(ValueError, match="at least two.*Received: times="):
        odeint(decay, tf.ones([2]), float64([0.0]))


@pytest.mark.parametrize("mode", ("eager", "function"))
@pytest.mark.parametrize("make", (tf.Variable, keras.Variable))
def test_gradient_reaches_a_variable_within_a_tuple_of_times(make, mode):
    last = make(1.0, dtype="float64")

    def gradient():
        with tf.GradientTape() as tape:
            y = odeint(decay, float64([1.0]), (0.0, last), tight()).states[-1]
        source = last.value if make is keras.Variable else last
        return tape.gradient(y, source)

    run = tf.function(gradient) if mode == "function" else gradient
    np.testing.assert_allclose(run(), -np.exp(-1.0), rtol=1e-7)


def test_a_keras_variable_may_hold_all_times():
    times = keras.Variable([0.0, 1.0], dtype="float64")
    y = odeint(decay, float64([1.0]), times, tight()).states[-1]
    np.testing.assert_allclose(y, [np.exp(-1.0)], rtol=1e-7)


def test_times_that_mix_shapes_are_refused():
    with pytest.raises(ValueError, match="`times` must.*Received: times="):
        odeint(decay, tf.ones([2]), (0.0, tf.zeros([3])))


def test_times_of_integers_are_taken_as_floats():
    y = odeint(decay, float64([1.0]), (0, 1), tight()).states[-1]
    np.testing.assert_allclose(y, [np.exp(-1.0)], rtol=1e-8)
    y = odeint(decay, float64([1.0]), tf.constant([0, 1]), tight()).states[-1]
    np.testing.assert_allclose(y, [np.exp(-1.0)], rtol=1e-8)


@pytest.mark.parametrize("state", (1, [1, 2], np.arange(3), True))
def test_state_that_is_not_float_is_refused(state):
    if isinstance(state, list):
        state = tf.constant(state)
    with pytest.raises(TypeError, match="float tensor.*Received: initial_st"):
        odeint(decay, state, (0.0, 1.0))


def test_state_of_unknown_rank_is_refused():
    @tf.function(input_signature=[tf.TensorSpec(None)], autograph=False)
    def run(y):
        return odeint(decay, y, (0.0, 1.0)).states

    with pytest.raises(ValueError, match="known rank.*Received: initial_state"):
        run.get_concrete_function()


@pytest.mark.parametrize("dynamics", (3.0, None, "tanh"))
def test_dynamics_that_cannot_be_called_are_refused(dynamics):
    with pytest.raises(TypeError, match="`dynamics` must.*Received: dynamics="):
        odeint(dynamics, tf.ones([2]), (0.0, 1.0))


DERIVATIVES = {
    "shape": lambda t, y: tf.concat([y, y], -1),
    "shape of another rank": lambda t, y: y[..., None],
    "shape by broadcasting": lambda t, y: tf.reduce_sum(y, -1, True),
    "dtype": lambda t, y: tf.cast(y, tf.float64),
    "structure": lambda t, y: (y, y),
}


@pytest.mark.parametrize("what", DERIVATIVES)
def test_derivative_that_does_not_match_the_state_is_refused(what):
    match = f"state's {what.split()[0]}.*Received: derivative"
    with pytest.raises(ValueError, match=match):
        odeint(DERIVATIVES[what], tf.ones([2, 3]), (0.0, 1.0))


def test_derivative_of_none_is_refused():
    with pytest.raises(ValueError, match="derivative.*Received"):
        odeint(lambda t, y: None, tf.ones([2, 3]), (0.0, 1.0))


@pytest.mark.parametrize("name", ("dormand_prince", "bdf"))
def test_rows_of_times_are_refused_by_the_solvers_of_tfp(name):
    times = ((0.0, 1.0), (0.0, 2.0))
    with pytest.raises(ValueError, match=r"\(T,\).*Received: solver="):
        odeint(decay, tf.ones([2, 1]), times, name)


def test_scalar_state_has_no_samples_to_step_on_their_own():
    solver = Tsit5(per_sample_steps=True)
    with pytest.raises(ValueError, match="batch.*Received: a scalar state"):
        odeint(decay, tf.constant(1.0), (0.0, 1.0), solver)


def test_rows_of_times_must_be_as_many_as_the_samples():
    with pytest.raises(
        (ValueError, tf.errors.InvalidArgumentError), match="Received"
    ):
        odeint(decay, tf.ones([3, 1]), ((0.0, 1.0), (0.0, 2.0)))


@pytest.mark.parametrize("kind", ("solver", "adjoint"))
def test_unknown_names_are_refused_with_the_known_ones(kind):
    with pytest.raises(ValueError, match="Received.*nonsense"):
        odeint(decay, tf.ones([1]), (0.0, 1.0), **{kind: "nonsense"})
    with pytest.raises(TypeError, match="Received"):
        odeint(decay, tf.ones([1]), (0.0, 1.0), **{kind: 3})


def test_batch_size_and_times_may_be_unknown_until_run_time():
    @tf.function(
        input_signature=[
            tf.TensorSpec([None, 1], tf.float64),
            tf.TensorSpec([None], tf.float64),
        ],
        autograph=False,
    )
    def run(y, times):
        with tf.GradientTape() as tape:
            tape.watch([y, times])
            states = odeint(decay, y, times, tight()).states
        return states, tape.gradient(states, [y, times])

    for y0, times in (
        ([[1.0]], [0.0, 1.0]),
        ([[1.0], [2.0]], [1.0, 0.4, 0.0]),
    ):
        states, (dy0, dtimes) = run(float64(y0), float64(times))
        growth = np.exp(times[0] - np.array(times))
        expected = growth[:, None, None] * np.array(y0)
        np.testing.assert_allclose(states, expected, rtol=1e-6)
        np.testing.assert_allclose(
            dy0, np.full_like(y0, growth.sum()), rtol=1e-6
        )
        slopes = -expected.sum((1, 2))
        slopes[0] = -slopes[1:].sum()
        np.testing.assert_allclose(dtimes, slopes, rtol=1e-6)


def test_odeint_of_the_package_is_the_function():
    assert keras_node.odeint is odeint


def test_empty_batch_stays_empty():
    y = tf.zeros((0, 2))
    results = keras_node.odeint(lambda t, y: -y, y, (0.0, 1.0))
    assert results.states.shape == (2, 0, 2)
    assert results.diagnostics.status == 0


@pytest.mark.parametrize(
    ("solver", "shape"),
    [
        (Tsit5(), (0, 2)),
        (Tsit5(), (2, 0)),
        (Tsit5(per_sample_steps=True), (0, 2)),
        (keras_node.solvers.Euler(per_sample_steps=True), (0, 2)),
    ],
)
def test_state_without_elements_has_a_solution_and_a_gradient(solver, shape):
    y = tf.ones(shape)
    with tf.GradientTape() as tape:
        tape.watch(y)
        results = keras_node.odeint(lambda t, y: -y, y, (0.0, 1.0, 2.0), solver)
        loss = tf.reduce_sum(results.states)
    assert results.states.shape == (3, *shape)
    assert tape.gradient(loss, y).shape == shape
    assert (results.diagnostics.status.numpy() == 0).all()


@pytest.mark.parametrize("times", [[], [0.0]])
def test_too_few_times_of_a_graph_are_refused(times):
    @tf.function(input_signature=[tf.TensorSpec([None], tf.float64)])
    def solve(times):
        y = tf.ones([1])
        return keras_node.odeint(lambda t, y: -y, y, times).states

    with pytest.raises(tf.errors.InvalidArgumentError, match="at least two"):
        solve(times)
