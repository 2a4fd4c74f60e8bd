"""Divergences of dense networks in closed form, against Jacobians."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_node
from keras_node.dynamics.vector_field import VectorField
from keras_node.flows.closed_divergence import bind_with_divergence

Dense = keras.layers.Dense
D = 3


def chain(*layers):
    """Returns float64 dense layers of a field of `D` numbers."""
    sizes = {"units": 5, "last": D}
    return keras.Sequential(
        [Dense(sizes[size], name_, dtype="float64") for size, name_ in layers]
    )


NETWORKS = {
    "one linear layer": chain(("last", None)),
    "one nonlinear layer": chain(("last", "tanh")),
    "one hidden layer": chain(("units", "softplus"), ("last", None)),
    "a nonlinear end": chain(("units", "sigmoid"), ("last", "tanh")),
    "two hidden layers": chain(
        ("units", "tanh"), ("units", "gelu"), ("last", None)
    ),
    "linear layers between": chain(
        ("units", None),
        ("units", "elu"),
        ("units", None),
        ("units", "silu"),
        ("units", None),
        ("last", None),
    ),
}
NO_CLOSED_FORM = {
    "three nonlinear layers": chain(
        ("units", "tanh"), ("units", "tanh"), ("last", "tanh")
    ),
    "a softmax": chain(("units", "softmax"), ("last", None)),
    "a function of the user": chain(("units", tf.sin), ("last", None)),
    "another layer": keras.Sequential(
        [Dense(D, dtype="float64"), keras.layers.LayerNormalization()]
    ),
}


def evaluate(dynamics, t, y, condition=None):
    """Returns value and closed divergence, once the weights are random."""
    bound = bind_with_divergence(VectorField(dynamics), None, condition)
    bound(t, y)
    rng = np.random.default_rng(0)
    for weight in dynamics.weights:
        weight.assign(rng.normal(size=weight.shape))
    value, find_divergence = bound(t, y)
    return value, find_divergence()


def state():
    return tf.random.stateless_normal((4, D), (0, 1), dtype=tf.float64)


def jacobian_of(function, y):
    """Returns `(value, trace of the Jacobian)`."""
    with tf.GradientTape() as tape:
        tape.watch(y)
        value = function(y)
    return value, tf.linalg.trace(tape.batch_jacobian(value, y))


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("time", ("none", "ignored", "scalar", "per sample"))
def test_value_and_divergence_are_those_of_the_network(name, time):
    net = keras.models.clone_model(NETWORKS[name])
    y, t = state(), tf.constant(0.7, tf.float64)
    if time == "none":
        dynamics = net
        expected = lambda y: net(y)  # noqa: E731
    else:
        wrapper = keras_node.ConcatTime
        if time == "ignored":
            wrapper = keras_node.IgnoreTime
        if time == "per sample":
            t = tf.constant([0.1, -0.2, 0.3, 1.0], tf.float64)
        dynamics = wrapper(net, dtype="float64")
        expected = lambda y: dynamics(t, y)  # noqa: E731
    actual = evaluate(dynamics, t, y)
    for a, b in zip(actual, jacobian_of(expected, y), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


def test_a_condition_is_one_more_feature():
    dynamics = keras_node.ConcatTime(
        keras.models.clone_model(NETWORKS["two hidden layers"]), dtype="float64"
    )
    y, t = state(), tf.constant(0.7, tf.float64)
    condition = tf.reshape(tf.range(8.0), (4, 2))
    actual = evaluate(dynamics, t, y, condition)
    expected = jacobian_of(lambda y: dynamics(t, y, condition), y)
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


@pytest.mark.parametrize("name", NO_CLOSED_FORM)
def test_other_networks_have_no_closed_form(name):
    value, divergence = evaluate(NO_CLOSED_FORM[name], 0.0, state())
    assert value.shape == (4, D)
    assert divergence is None


def test_a_subclass_may_do_anything_and_has_no_closed_form():
    class Twice(Dense):
        def call(self, x):
            return 2.0 * super().call(x)

    assert evaluate(Twice(D, dtype="float64"), 0.0, state())[1] is None


def test_layers_of_another_dtype_have_no_closed_form():
    assert evaluate(Dense(D), 0.0, state())[1] is None


def test_wrapper_that_casts_the_state_has_no_closed_form():
    net = keras.models.clone_model(NETWORKS["one hidden layer"])
    dynamics = keras_node.ConcatTime(net, dtype="float32")
    assert evaluate(dynamics, tf.constant(0.0), state())[1] is None


def test_model_that_casts_its_input_has_no_closed_form():
    net = keras.Sequential([keras.Input((D,)), Dense(D, dtype="float64")])
    assert evaluate(net, 0.0, state())[1] is None


def test_scope_of_mixed_precision_has_no_closed_form():
    layer = Dense(D)
    y = tf.cast(state(), tf.float32)
    assert evaluate(layer, 0.0, y)[1] is not None
    with keras.src.backend.AutocastScope("bfloat16"):
        assert evaluate(layer, 0.0, y)[1] is None


def test_activation_without_a_hash_has_no_closed_form():
    @dataclasses.dataclass
    class Scaled:
        factor: float

        def __call__(self, x):
            return self.factor * tf.tanh(x)

    layer = Dense(D, Scaled(2.0), dtype="float64")
    assert evaluate(layer, 0.0, state())[1] is None


def test_method_of_the_dynamics_comes_first():
    net = keras.models.clone_model(NETWORKS["one hidden layer"])
    net.divergence = lambda t, y: 7.0 * tf.ones_like(y[:, 0])
    np.testing.assert_array_equal(evaluate(net, 0.0, state())[1], [7.0] * 4)


def test_images_have_no_closed_form():
    y = tf.zeros((2, 4, 4, D), tf.float64)
    assert evaluate(Dense(D, dtype="float64"), 0.0, y)[1] is None


@pytest.mark.parametrize("jit_compile", (False, True))
def test_gradients_of_a_flow_equal_those_without_the_closed_form(jit_compile):
    keras.utils.set_random_seed(0)
    net = keras.models.clone_model(NETWORKS["two hidden layers"])
    field = keras_node.ConcatTime(net, dtype="float64")
    # A function has no closed form.
    twin = lambda t, y: field(t, y)  # noqa: E731
    y = state()
    field(tf.constant(0.0, tf.float64), y)

    def loss_and_gradients(dynamics):
        flow = keras_node.CNFBijector(dynamics, trace="exact")

        @tf.function(jit_compile=jit_compile)
        def step(y):
            with tf.GradientTape() as tape:
                tape.watch(y)
                log_det = flow.forward_log_det_jacobian(y, event_ndims=1)
                loss = tf.reduce_sum(log_det * flow.forward(y)[:, 0])
            variables = [weight.value for weight in net.trainable_weights]
            return loss, tape.gradient(loss, [y, *variables])

        return step(y)

    actual, expected = loss_and_gradients(field), loss_and_gradients(twin)
    tf.nest.map_structure(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12),
        actual,
        expected,
    )
