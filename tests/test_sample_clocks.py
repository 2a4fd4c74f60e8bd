"""Tests of dynamics that multiply by the times of samples."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from support.gradients import float64

import keras_node

SIZES = (1, 2, 3, 5)


def times_of(batch):
    """Returns a grid for each sample, `(batch, 2)`, from 0 to its end."""
    ends = np.linspace(0.5, 1.0, batch)
    return float64(np.stack([np.zeros(batch), ends], 1))


def per_sample(**kwargs):
    """Returns a solver with a clock for each sample."""
    return keras_node.solvers.Tsit5(
        rtol=1e-8, atol=1e-10, per_sample_steps=True, **kwargs
    )


def careless(t, y):
    """Multiplies features by the times of samples."""
    return y * t


def careful(t, y):
    """Is right for any shape of time."""
    return y * tf.reshape(t, [-1, 1])


def exact(state, ends):
    """Returns the solution of `y' = t y`."""
    return state * np.exp(np.reshape(ends, [-1, 1]) ** 2 / 2)


@pytest.mark.parametrize(
    "adjoint, mode",
    (
        ("checkpoint", "eager"),
        ("checkpoint", "function"),
        ("backsolve", "function"),
        ("direct", "function"),
    ),
)
@pytest.mark.parametrize("batch", SIZES)
def test_product_with_the_times_of_samples_is_refused(batch, adjoint, mode):
    def compute(y):
        return keras_node.odeint(
            careless,
            y,
            (0.0, 1.0),
            solver=per_sample(),
            adjoint=adjoint,
        ).states

    if mode == "function":
        compute = tf.function(compute, autograph=False)
    with pytest.raises(ValueError, match="ConcatTime"):
        compute(float64(np.ones((batch, 2))))


@pytest.mark.parametrize("batch", SIZES)
def test_product_with_the_times_of_a_grid_of_samples_is_refused(batch):
    layer = keras_node.ODELayer(careless, dtype="float64")
    with pytest.raises(ValueError, match="ConcatTime"):
        layer(float64(np.ones((batch, 2))), times=times_of(batch))


@pytest.mark.parametrize("batch", SIZES)
def test_product_with_the_times_is_refused_by_a_layer(batch):
    layer = keras_node.ODELayer(careless, solver=per_sample())
    with pytest.raises(ValueError, match="ConcatTime"):
        layer(np.ones((batch, 2)))


@pytest.mark.parametrize("batch", SIZES)
def test_product_with_the_times_is_refused_by_a_bijector(batch):
    bijector = keras_node.CNFBijector(careless, solver=per_sample())
    with pytest.raises(ValueError, match="ConcatTime"):
        bijector.forward(tf.ones((batch, 2)))


@pytest.mark.parametrize("batch", SIZES)
def test_product_with_the_times_is_refused_by_a_latent_ode(batch):
    model = keras_node.LatentODE(2, 2, dynamics=careless)
    rng = np.random.default_rng(0)
    data = {
        "values": rng.normal(size=(batch, 4, 2)).astype("float32"),
        "times": np.sort(rng.uniform(size=(batch, 4)).astype("float32"), 1),
    }
    with pytest.raises(ValueError, match="ConcatTime"):
        model(data)


def test_batch_of_unknown_size_is_refused_alike():
    layer = keras_node.ODELayer(careless, solver=per_sample())
    with pytest.raises(ValueError, match="ConcatTime"):
        layer(keras.Input((2,)))


@pytest.mark.parametrize("batch", SIZES)
def test_time_in_a_column_is_right_for_any_batch(batch):
    state = np.random.default_rng(0).normal(size=(batch, 2))
    times = times_of(batch)
    layer = keras_node.ODELayer(careful, solver=per_sample(), dtype="float64")
    # The solver's tolerance is 1e-8 a step.
    np.testing.assert_allclose(
        layer(state), exact(state, np.ones(batch)), rtol=1e-6
    )
    np.testing.assert_allclose(
        layer(state, times=times), exact(state, times[:, 1]), rtol=1e-6
    )


@pytest.mark.parametrize("batch", SIZES)
def test_state_of_one_number_a_sample_is_multiplied_by_its_time(batch):
    state = np.random.default_rng(0).normal(size=batch)
    results = keras_node.odeint(
        careless, float64(state), (0.0, 1.0), solver=per_sample()
    )
    np.testing.assert_allclose(
        results.states[-1], state * np.exp(0.5), rtol=1e-6
    )


def test_shared_clock_may_multiply():
    state = np.random.default_rng(0).normal(size=(2, 2))
    results = keras_node.odeint(
        careless, float64(state), (0.0, 1.0), solver="tsit5"
    )
    # The solver's default tolerance is 1e-3.
    np.testing.assert_allclose(
        results.states[-1], state * np.exp(0.5), rtol=1e-2
    )


@pytest.mark.parametrize("batch", SIZES)
def test_tensor_for_each_sample_in_the_closure_is_not_refused(batch):
    state = np.random.default_rng(0).normal(size=(batch, 2))
    rates = float64(np.linspace(-1.0, 1.0, 2 * batch).reshape(batch, 2))
    results = keras_node.odeint(
        lambda t, y: rates * tf.reshape(t, [-1, 1]) * y,
        float64(state),
        (0.0, 1.0),
        solver=per_sample(),
    )
    np.testing.assert_allclose(
        results.states[-1], state * np.exp(rates / 2), rtol=1e-6
    )


@pytest.mark.parametrize("batch", SIZES)
def test_conditional_flow_with_a_clock_for_each_sample_is_not_refused(batch):
    bijector = keras_node.CNFBijector(
        lambda t, y, condition: condition * tf.reshape(t, [-1, 1]) * y,
        solver=per_sample(),
    )
    state = np.random.default_rng(0).normal(size=(batch, 2))
    condition = np.linspace(-1.0, 1.0, 2 * batch).reshape(batch, 2)
    np.testing.assert_allclose(
        bijector.forward(float64(state), condition=float64(condition)),
        state * np.exp(condition / 2),
        rtol=1e-6,
    )


@pytest.mark.parametrize("batch", SIZES)
def test_concat_time_is_right_for_any_batch(batch):
    net = keras.layers.Dense(2, use_bias=False, dtype="float64")
    field = keras_node.ConcatTime(net, dtype="float64")
    layer = keras_node.ODELayer(field, solver=per_sample(), dtype="float64")
    state = np.random.default_rng(0).normal(size=(batch, 2))
    layer(state)
    net.kernel.assign(np.repeat([[0.0], [1.0], [2.0]], 2, 1))
    row = round(float(field(float64(1.0), float64([[0.0, 0.0]]))[0, 0]))
    kernel = np.zeros((3, 2))
    kernel[row] = 1.0
    net.kernel.assign(kernel)
    # The derivative is the time alone, whose integral is 1 / 2.
    np.testing.assert_allclose(layer(state), state + 0.5, rtol=1e-6)
