"""Tests of the group normalization against Keras's."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_node

KINDS = (keras.layers.GroupNormalization, keras_node.GroupNormalization)
SHAPES = {
    "images": (3, 4, 5, 6),
    "series": (3, 7, 6),
    "features": (3, 6),
    "volumes": (2, 2, 3, 2, 6),
}


def normal(shape, seed=0, dtype="float64"):
    generator = np.random.default_rng(seed)
    return generator.normal(2.0, 3.0, shape).astype(dtype)


def pair(shape, **options):
    """Returns Keras's layer and ours with the same weights."""
    layers = [
        kind(**options)
        for kind in (
            keras.layers.GroupNormalization,
            keras_node.GroupNormalization,
        )
    ]
    for layer in layers:
        layer.build(shape)
    weights = [normal(w.shape, i + 1) for i, w in enumerate(layers[0].weights)]
    for layer in layers:
        layer.set_weights(weights)
    return layers


def value_and_gradients(layer, x):
    x = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x)
        loss = tf.reduce_sum(tf.sin(tf.cast(y, x.dtype)))
    return y, tape.gradient(loss, [x, *layer.trainable_weights])


@pytest.mark.parametrize("groups", (1, 2, 6, -1))
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_values_and_gradients_are_those_of_keras(shape, groups):
    theirs, ours = pair(shape, groups=groups, dtype="float64")
    for found, expected in zip(
        *[value_and_gradients(each, normal(shape)) for each in (ours, theirs)],
        strict=True,
    ):
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(
    "options",
    (
        {"axis": 1, "groups": 2},
        {"axis": 3, "groups": 3},
        {"scale": False, "groups": 3},
        {"center": False, "groups": 3},
        {"epsilon": 0.5, "groups": 3},
    ),
    ids=str,
)
def test_arguments_mean_what_they_do_in_keras(options):
    shape = (3, 6, 4, 6)
    theirs, ours = pair(shape, dtype="float64", **options)
    x = normal(shape)
    np.testing.assert_allclose(ours(x), theirs(x), rtol=1e-10, atol=1e-12)
    assert ours.get_config() == theirs.get_config() | {"name": ours.name}


@pytest.mark.parametrize(
    "policy", ("float32", "mixed_float16", "mixed_bfloat16")
)
def test_half_precision_is_normalized_in_float32(policy):
    shape = SHAPES["images"]
    theirs, ours = pair(shape, groups=3, dtype=policy)
    # The square of 600 overflows float16.
    x = 100.0 * normal(shape, dtype="float32")
    found, expected = ours(x), theirs(x)
    assert found.dtype == expected.dtype
    tolerance = {"float32": 1e-5, "mixed_float16": 2e-2}.get(policy, 2e-1)
    np.testing.assert_allclose(
        tf.cast(found, "float32"), tf.cast(expected, "float32"), atol=tolerance
    )


def test_weights_of_keras_are_loaded_and_a_file_comes_back(tmp_path):
    theirs, ours = [
        keras.Sequential([keras.Input((4, 4, 6)), kind(groups=3)])
        for kind in (
            keras.layers.GroupNormalization,
            keras_node.GroupNormalization,
        )
    ]
    theirs.layers[0].set_weights([normal((6,), 1), normal((6,), 2)])
    x = normal((2, 4, 4, 6), dtype="float32")
    theirs.save_weights(tmp_path / "theirs.weights.h5")
    ours.load_weights(tmp_path / "theirs.weights.h5")
    np.testing.assert_allclose(ours(x), theirs(x), rtol=1e-4, atol=1e-5)
    ours.save(tmp_path / "ours.keras")
    loaded = keras.models.load_model(tmp_path / "ours.keras")
    np.testing.assert_array_equal(loaded(x), ours(x))


def test_images_of_any_size_are_taken_in_a_graph_and_under_xla():
    layer = keras_node.GroupNormalization(groups=3)
    layer.build((None, None, None, 6))
    spec = [tf.TensorSpec((None, None, None, 6))]
    x = normal((2, 3, 4, 6), dtype="float32")
    for jit_compile in (False, True):
        function = tf.function(layer, spec, jit_compile=jit_compile)
        np.testing.assert_allclose(function(x), layer(x), rtol=1e-5, atol=1e-5)
