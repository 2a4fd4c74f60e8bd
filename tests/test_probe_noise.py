"""When the noise of an estimate is drawn anew, and when it stays."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import keras_node

X = np.linspace(-1.0, 1.0, 12, dtype="float32").reshape(4, 3)


def flow(trainable=True):
    net = keras.layers.Dense(3, "tanh", trainable=trainable)
    bijector = keras_node.CNFBijector(
        net, trace=keras_node.trace.Hutchinson(seed=1), solver="rk4"
    )
    base = tfp.distributions.MultivariateNormalDiag(tf.zeros(3))
    return keras_node.NormalizingFlow(bijector, base)


def layer():
    return keras_node.ODELayer(
        keras.layers.Dense(3, "tanh"),
        solver="rk4",
        regularizers=[keras_node.regularizers.JacobianFrobenius(seed=1)],
    )


def penalty(layer, training):
    layer(X, training=training)
    return float(layer.losses[0])


@pytest.mark.parametrize("jit_compile", [None, False, True])
def test_each_solve_of_training_draws_anew(jit_compile):
    """Also where no weight changes: accumulated gradients, frozen dynamics."""
    model = flow(trainable=False)

    def log_prob():
        return model(X, training=True)

    if jit_compile is not None:
        log_prob = tf.function(log_prob, jit_compile=jit_compile)
    first, second = log_prob().numpy(), log_prob().numpy()
    assert np.max(np.abs(first - second)) > 1e-3


def test_a_density_is_a_function():
    model = flow()
    first = model.log_prob(X).numpy()
    model(X, training=True)
    np.testing.assert_array_equal(model.log_prob(X), first)
    compiled = tf.function(model.log_prob)
    np.testing.assert_allclose(compiled(X), first, rtol=1e-5)


def test_a_penalty_is_estimated_anew_in_training():
    ode = layer()
    assert penalty(ode, True) != penalty(ode, True)
    assert penalty(ode, False) == penalty(ode, False)


def test_a_tape_on_the_weights_is_training_outside_of_fit():
    bijector = flow().bijector

    def log_det(**tape_options):
        x = tf.constant(X)
        with tf.GradientTape(**tape_options) as tape:
            tape.watch(x)
            return bijector.inverse_log_det_jacobian(x).numpy()

    first = bijector.inverse_log_det_jacobian(tf.constant(X)).numpy()
    assert np.max(np.abs(log_det() - log_det())) > 1e-3
    # A sampler's tape watches the state alone.
    quiet = log_det(watch_accessed_variables=False)
    np.testing.assert_allclose(quiet, first, rtol=1e-5)


@pytest.mark.parametrize("jit_compile", [None, False, True])
def test_a_density_under_a_tape_on_the_weights_is_estimated_anew(jit_compile):
    """One probe for ever would be learnt by heart."""
    model = flow()
    model.log_prob(X)

    def loss(training=None):
        with tf.GradientTape():
            return tf.reduce_mean(model.log_prob(X, training=training))

    if jit_compile is not None:
        loss = tf.function(loss, jit_compile=jit_compile)
    assert abs(float(loss()) - float(loss())) > 1e-4
    fixed = [float(loss(training=False)) for _ in range(2)]
    # The first is solved as it comes, the second by a graph.
    np.testing.assert_allclose(*fixed, rtol=1e-5)


def test_training_goes_on_with_the_noise_of_an_unbroken_run(tmp_path):
    unbroken = flow()
    unbroken(X, training=True)
    unbroken.save(tmp_path / "flow.keras")
    loaded = keras.models.load_model(tmp_path / "flow.keras")
    np.testing.assert_allclose(
        loaded(X, training=True), unbroken(X, training=True), rtol=1e-6
    )


def test_layers_without_estimates_keep_no_seed():
    ode = keras_node.ODELayer(keras.layers.Dense(3, "tanh"))
    ode.build(X.shape)
    names = {variable.path.split("/")[-1] for variable in ode.variables}
    assert "seed_generator_state" not in names
