"""Tests of `Augment`."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from support import checks

import keras_node


def random_normal(*shape):
    return np.random.default_rng(0).normal(size=shape).astype("float32")


@pytest.mark.parametrize("shape", [(4, 2), (4, 3, 2), (2, 3, 3, 1)], ids=str)
def test_zeros_follow_the_input_on_the_last_axis(shape):
    x = random_normal(*shape)
    y = keras_node.Augment(3)(x)
    assert y.shape == (*shape[:-1], shape[-1] + 3)
    np.testing.assert_array_equal(y[..., : shape[-1]], x)
    np.testing.assert_array_equal(y[..., shape[-1] :], 0.0)


def test_gradient_drops_the_zeros():
    x = tf.constant(random_normal(4, 2))
    weights = tf.constant(random_normal(4, 5))
    with tf.GradientTape() as tape:
        tape.watch(x)
        loss = tf.reduce_sum(weights * keras_node.Augment(3)(x))
    np.testing.assert_array_equal(tape.gradient(loss, x), weights[:, :2])


@pytest.mark.filterwarnings("ignore:The model does not have any trainable")
def test_layer_keeps_the_contract(tmp_path):
    x = random_normal(4, 2)
    checks.assert_layer_contract(
        keras_node.Augment(2), x, tmp_path / "augment.keras"
    )


def test_unknown_axes_stay_unknown():
    layer = keras_node.Augment(2)
    assert layer(keras.Input((None, 3))).shape == (None, None, 5)
    assert layer.compute_output_shape((None, None)) == (None, None)


@pytest.mark.parametrize("dtype", ["float16", "float64", "int32"])
def test_dtype_is_that_of_the_policy_and_integers_stay(dtype):
    x = np.ones((2, 2), dtype)
    expected = dtype if dtype == "int32" else "float64"
    y = keras_node.Augment(1, dtype="float64")(x)
    assert y.dtype.name == expected


def test_mask_passes_through():
    x = keras.layers.Masking()(tf.constant([[[1.0, 2.0], [0.0, 0.0]]]))
    y = keras_node.Augment(1)(x)
    np.testing.assert_array_equal(y._keras_mask, [[True, False]])


def test_ode_moves_the_zeros():
    net = keras.layers.Dense(5, bias_initializer="ones")
    model = keras.Sequential([keras_node.Augment(3), keras_node.ODELayer(net)])
    assert np.abs(model(random_normal(4, 2))[:, 2:]).min() > 1e-3


def test_config_round_trips():
    layer = keras_node.Augment(3, name="more")
    config = layer.get_config()
    assert config["units"] == 3
    copy = keras_node.Augment.from_config(config)
    assert copy.get_config() == config


@pytest.mark.parametrize("units", [0, -1, 1.5, "2", None, True])
def test_units_other_than_a_positive_integer_are_refused(units):
    with pytest.raises(ValueError, match="Received: units="):
        keras_node.Augment(units)


def test_units_may_be_a_numpy_integer():
    layer = keras_node.Augment(np.int64(3))
    assert layer(tf.ones((2, 1))).shape == (2, 4)


def test_input_without_a_feature_axis_is_refused():
    with pytest.raises(ValueError, match="Received"):
        keras_node.Augment(1)(tf.ones(3))
