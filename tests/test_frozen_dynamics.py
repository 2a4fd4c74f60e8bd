"""Tests that a gradient is that of what the forward pass saw, and no later."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from support.gradients import ADJOINTS, MODES, assert_close, float64
from support.modes import (
    FACES,
    RTOL,
    STATE,
    Field,
    decay,
    face,
    latent_ode,
    log_prob_gradient,
    normalizing_flow,
    rk4,
    series,
    solve,
)

import keras_node

RATES = (0.2, 0.5, 0.9)
LATER = 3.0


def end_of_segments(adjoint):
    """Returns gradients of `sum(y(3))`, a rate for each unit of time.

    To the initial state and to each rate; NumPy.
    """
    decays = [decay(rate, adjoint) for rate in RATES]
    whole = np.prod([growth for growth, _ in decays])
    by_rate = [
        slope * whole / growth * np.sum(STATE) for growth, slope in decays
    ]
    return np.full_like(STATE, whole), by_rate


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("adjoint", ADJOINTS)
@pytest.mark.parametrize("name", FACES)
def test_tensor_that_is_rebound_between_solves_has_each_gradient(
    name, adjoint, mode
):
    rate = tf.constant(LATER, tf.float64)

    def dynamics(t, y):
        return -rate * y

    solved, _ = face(name, dynamics, adjoint)
    solved(float64(STATE))  # Layers are built outside of graphs.

    def compute(state, rates):
        nonlocal rate
        with tf.GradientTape() as tape:
            tape.watch([state, rates])
            y = state
            for segment in rates:
                rate = segment
                y = solved(y)
            rate = tf.constant(LATER, tf.float64)
            value = tf.reduce_sum(y)
        return tape.gradient(value, (state, rates))

    actual = MODES[mode](compute)(
        float64(STATE), [float64(value) for value in RATES]
    )
    assert_close(actual, end_of_segments(adjoint), RTOL[adjoint])


@pytest.mark.parametrize("mode", ("eager", "function"))
@pytest.mark.parametrize("adjoint", ADJOINTS)
def test_number_that_is_rebound_between_solves_is_that_of_its_solve(
    adjoint, mode
):
    factor = None

    def compute(state, rate):
        nonlocal factor

        def dynamics(t, y):
            return -factor * rate * y

        with tf.GradientTape() as tape:
            tape.watch([state, rate])
            y = state
            for value in RATES:
                factor = value
                y = solve(dynamics, y, adjoint)
            factor = LATER
            value = tf.reduce_sum(y)
        return tape.gradient(value, (state, rate))

    actual = MODES[mode](compute)(float64(STATE), float64(1.0))
    by_state, by_rates = end_of_segments(adjoint)
    by_rate = np.dot(RATES, by_rates)
    assert_close(actual, (by_state, by_rate), RTOL[adjoint])


@pytest.mark.parametrize("mode", ("eager", "function"))
@pytest.mark.parametrize("adjoint", ADJOINTS)
@pytest.mark.parametrize("name", FACES)
def test_attribute_that_is_set_after_a_solve_changes_no_gradient(
    name, adjoint, mode
):
    field = Field(rate=(1.0, 1.0))
    solved, _ = face(name, field, adjoint)
    if name != "odeint":
        solved(float64(STATE))

    def compute(state):
        with tf.GradientTape() as tape:
            tape.watch(state)
            y = state
            for value in RATES:
                field.scale = value
                y = solved(y)
            field.scale = LATER
            value = tf.reduce_sum(y)
        return tape.gradient(value, (state, field.rate.value))

    actual = MODES[mode](compute)(float64(STATE))
    by_state, by_rates = end_of_segments(adjoint)
    by_feature = np.sum(STATE, 0) / np.sum(STATE)
    by_rate = np.dot(RATES, by_rates) * by_feature
    assert_close(actual, (by_state, by_rate), RTOL[adjoint])


class Segments(keras.layers.Layer):
    """Solves over one segment after the other, each of its own scale."""

    def __init__(self, adjoint):
        super().__init__(dtype="float64")
        self.field = Field(rate=(1.0, 1.0))
        self.ode = keras_node.ODELayer(
            self.field, solver=rk4(), adjoint=adjoint, dtype="float64"
        )

    def call(self, y):
        for scale in RATES:
            self.field.scale = scale
            y = self.ode(y)
        return y


@pytest.mark.parametrize("run_eagerly", (False, True))
@pytest.mark.parametrize("adjoint", ADJOINTS)
def test_fit_of_a_loop_of_solves_moves_the_weights_by_the_gradient(
    adjoint, run_eagerly
):
    layer = Segments(adjoint)
    model = keras.Sequential([keras.Input((2,), dtype="float64"), layer])
    model.compile(
        keras.optimizers.SGD(0.1),
        loss=lambda y_true, y_pred: keras.ops.sum(y_pred),
        run_eagerly=run_eagerly,
    )
    model.fit(STATE, STATE, batch_size=3, epochs=1, verbose=0)
    _, by_rates = end_of_segments(adjoint)
    by_feature = np.sum(STATE, 0) / np.sum(STATE)
    by_rate = np.dot(RATES, by_rates) * by_feature
    # Keras's losses are float32.
    np.testing.assert_allclose(
        layer.field.rate.value,
        1.0 - 0.1 * by_rate,
        rtol=max(RTOL[adjoint], 1e-6),
    )


def single_gradient(rate, adjoint):
    """Returns the gradients of `sum(y(1))` to `y(0)` and the rate, NumPy."""
    growth, by_rate = decay(rate, adjoint)
    return np.broadcast_to(growth, STATE.shape), by_rate * np.sum(STATE, 0)


RATE = np.array([0.4, 0.9])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("adjoint", ADJOINTS)
@pytest.mark.parametrize("name", FACES)
def test_weight_that_is_assigned_before_the_gradient_keeps_its_value(
    name, adjoint, mode
):
    if mode == "xla" and name != "ODELayer":
        pytest.skip("a graph shows as much")
    field = Field(rate=RATE)
    solved, _ = face(name, field, adjoint)
    solved(float64(STATE))

    def compute(state):
        with tf.GradientTape() as tape:
            tape.watch(state)
            value = tf.reduce_sum(solved(state))
        field.rate.assign([LATER, LATER])
        return tape.gradient(value, (state, field.rate.value))

    actual = MODES[mode](compute)(float64(STATE))
    assert_close(actual, single_gradient(RATE, adjoint), RTOL[adjoint])
    np.testing.assert_array_equal(field.rate.value, [LATER, LATER])


@pytest.mark.parametrize("mode", ("eager", "function"))
@pytest.mark.parametrize("adjoint", ADJOINTS)
@pytest.mark.parametrize("nested", (False, True))
def test_tf_variable_that_is_assigned_before_the_gradient_is_old_or_refused(
    nested, adjoint, mode
):
    variable = tf.Variable(RATE, name="decay_rate")
    gate = (
        tf.function(lambda: 1.0 * variable) if nested else variable.read_value
    )

    def compute(state):
        with tf.GradientTape() as tape:
            tape.watch(state)
            value = tf.reduce_sum(
                solve(lambda t, y: -gate() * y, state, adjoint)
            )
        variable.assign([LATER, LATER])
        return tape.gradient(value, (state, variable))

    try:
        actual = MODES[mode](compute)(float64(STATE))
    except (ValueError, RuntimeError, tf.errors.OpError) as error:
        assert "assign" in str(error) and "decay_rate" in str(error)
        return
    assert_close(actual, single_gradient(RATE, adjoint), RTOL[adjoint])


@pytest.mark.parametrize("mode", ("eager", "function"))
@pytest.mark.parametrize("adjoint", ADJOINTS)
@pytest.mark.parametrize("name", ("odeint", "ODELayer"))
def test_persistent_tape_gives_one_gradient_before_and_after_an_assignment(
    name, adjoint, mode
):
    field = Field(rate=RATE)
    solved, _ = face(name, field, adjoint)
    solved(float64(STATE))

    def compute(state):
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(state)
            end = solved(state)
            first = tf.reduce_sum(end)
            second = tf.reduce_sum(2.0 * end)
        sources = (state, field.rate.value)
        gradients = [tape.gradient(first, sources)]
        field.rate.assign([LATER, LATER])
        gradients.append(tape.gradient(second, sources))
        return gradients

    actual = MODES[mode](compute)(float64(STATE))
    expected = single_gradient(RATE, adjoint)
    assert_close(
        actual, [expected, tuple(2.0 * x for x in expected)], RTOL[adjoint]
    )


@pytest.mark.parametrize("mode", ("eager", "function"))
@pytest.mark.parametrize("adjoint", ADJOINTS)
def test_density_has_its_gradient_after_its_weight_was_assigned(adjoint, mode):
    field = Field(rate=RATE)
    flow = normalizing_flow(field, adjoint)
    flow.log_prob(float64(STATE))

    def compute(x):
        with tf.GradientTape() as tape:
            value = tf.reduce_sum(flow.log_prob(x))
        field.rate.assign([LATER, LATER])
        return tape.gradient(value, field.rate.value)

    actual = MODES[mode](compute)(float64(STATE))
    expected = log_prob_gradient(STATE, RATE, adjoint)
    assert_close(actual, expected, RTOL[adjoint])


@pytest.mark.parametrize("mode", ("eager", "function"))
@pytest.mark.parametrize("adjoint", ADJOINTS)
def test_latent_trajectory_has_its_gradient_after_an_assignment(adjoint, mode):
    field = Field(rate=(0.6, 0.6), dtype="float32")
    model = latent_ode(field, adjoint)
    mean = model(series(), training=False)

    def compute():
        with tf.GradientTape() as tape:
            value = tf.reduce_sum(model(series(), training=False))
        field.rate.assign([LATER, LATER])
        return tape.gradient(value, field.rate.value)

    # With equal rates each mean is a multiple of exp(-rate t).
    times = np.array([0.0, 0.5, 1.0])[:, None]
    actual = tf.reduce_sum(MODES[mode](compute)())
    # Float32 and four steps of RK4.
    assert_close(actual, -np.sum(times * mean), rtol=1e-4)


@pytest.mark.parametrize("adjoint", ADJOINTS)
@pytest.mark.parametrize("name", FACES)
def test_eager_call_sees_the_attribute_as_it_is(name, adjoint):
    field = Field(rate=RATE)
    solved, _ = face(name, field, adjoint)
    for scale in (1.0, 0.5, 1.0):
        field.scale = scale
        growth, _ = decay(scale * RATE, "checkpoint")
        np.testing.assert_allclose(
            solved(float64(STATE)), growth * STATE, rtol=1e-10
        )


@pytest.mark.parametrize("name", FACES)
def test_eager_call_sees_what_a_closure_holds(name):
    rate = RATE
    solved, _ = face(name, lambda t, y: -rate * y, "auto")
    for factor in (1.0, 0.5, 1.0):
        rate = factor * RATE
        growth, _ = decay(rate, "checkpoint")
        np.testing.assert_allclose(
            solved(float64(STATE)), growth * STATE, rtol=1e-10
        )


def linear_field(dtype="float32"):
    """Returns a `Dense` field of fixed weights, built."""
    field = keras.layers.Dense(2, use_bias=False, dtype=dtype)
    field.build((None, 2))
    field.kernel.assign([[-0.3, 0.7], [-0.9, -0.2]])
    return field


def enable_lora(field):
    field.enable_lora(1)
    field.lora_kernel_a.assign([[0.5], [1.0]])
    field.lora_kernel_b.assign([[0.7, -0.4]])


def quantize(field):
    field.quantize("int8")


def change_activation(field):
    field.activation = keras.activations.tanh


def odeint_call(field):
    x = tf.constant(STATE, tf.float32)
    return lambda: solve(field, x, "auto")


def layer_call(field):
    layer = keras_node.ODELayer(field, solver=rk4())
    x = tf.constant(STATE, tf.float32)
    return lambda: layer(x)


def bijector_call(field):
    bijector = keras_node.CNFBijector(field, solver=rk4())
    # A new tensor each time: bijectors remember results by their argument.
    return lambda: bijector.forward(tf.constant(STATE, tf.float32))


def density_call(field):
    flow = normalizing_flow(field, dtype="float32")
    return lambda: flow.log_prob(tf.constant(STATE, tf.float32))


def sample_call(field):
    flow = normalizing_flow(field, dtype="float32")
    return lambda: flow.sample(3, seed=(0, 1))


def reconstruct_call(field):
    model = latent_ode(field)
    model(series())  # The same weights, whatever the field looks like later.
    return lambda: model.reconstruct(**series())


CALLS = (
    odeint_call,
    layer_call,
    bijector_call,
    density_call,
    sample_call,
    reconstruct_call,
)


@pytest.mark.parametrize("change", (enable_lora, quantize, change_activation))
@pytest.mark.parametrize("make", CALLS)
def test_layer_of_the_dynamics_that_changes_is_seen_by_the_next_call(
    make, change
):
    field = linear_field()
    call = make(field)
    before = call()
    change(field)
    # A new object around the same layer has nothing of old.
    expected = make(field)()
    assert np.max(np.abs(expected - before)) > 1e-4
    # One solve, in float32.
    np.testing.assert_allclose(call(), expected, rtol=1e-5, atol=1e-6)


def set_solver(owner):
    owner.solver = keras_node.solvers.Euler()


def set_tolerance(owner):
    owner.solver.step_size = 1.0


@pytest.mark.parametrize("change", (set_solver, set_tolerance))
@pytest.mark.parametrize(
    "name", ("ODELayer", "CNFBijector", "NormalizingFlow", "LatentODE")
)
def test_solver_that_is_changed_is_used_by_the_next_call(name, change):
    def make():
        field = linear_field()
        if name == "ODELayer":
            owner = keras_node.ODELayer(field, solver=rk4())
            return owner, lambda: owner(tf.constant(STATE, tf.float32))
        if name == "CNFBijector":
            owner = keras_node.CNFBijector(field, solver=rk4())
            return owner, lambda: owner.forward(tf.constant(STATE, tf.float32))
        if name == "NormalizingFlow":
            flow = normalizing_flow(field, dtype="float32")
            return flow.bijector, lambda: flow.log_prob(
                tf.constant(STATE, tf.float32)
            )
        model = latent_ode(field)
        return model, lambda: model.reconstruct(**series())

    owner, call = make()
    before = call()
    change(owner)
    fresh, expected_call = make()
    change(fresh)
    expected = expected_call()
    assert np.max(np.abs(expected - before)) > 1e-5
    np.testing.assert_allclose(call(), expected, rtol=1e-5, atol=1e-6)
