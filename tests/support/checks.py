"""Contracts that every layer of the package keeps."""

import keras
import numpy as np
import tensorflow as tf


def assert_layer_contract(layer, inputs, path):
    """Builds, calls symbolically, fits one batch, saves and loads `layer`.

    Args:
        layer: Keras layer of one tensor, not built.
        inputs: Float array of shape `(batch, ...)`.
        path: Path of the `.keras` file to write.

    Returns:
        The loaded model, for more checks.
    """
    symbolic_inputs = keras.Input(inputs.shape[1:], dtype=inputs.dtype.name)
    symbolic_outputs = layer(symbolic_inputs)
    assert layer.built
    assert symbolic_outputs.shape[0] is None
    assert symbolic_outputs.shape == layer.compute_output_shape(
        symbolic_inputs.shape
    )
    outputs = layer(inputs)
    assert tuple(outputs.shape[1:]) == tuple(symbolic_outputs.shape[1:])
    assert keras.backend.standardize_dtype(outputs.dtype) == (
        symbolic_outputs.dtype
    )
    model = keras.Model(symbolic_inputs, symbolic_outputs)
    assert_fit_moves_every_weight(model, inputs, np.zeros(outputs.shape))
    model.save(path)
    loaded = keras.models.load_model(path)
    np.testing.assert_array_equal(loaded(inputs), model(inputs))
    return loaded


def assert_fit_moves_every_weight(model, inputs, targets):
    """Fits one batch: each trainable weight stays finite, and moves."""
    before = [tf.identity(variable) for variable in model.trainable_variables]
    model.compile(keras.optimizers.SGD(0.1), "mse")
    history = model.fit(inputs, targets, batch_size=len(inputs), verbose=0)
    assert np.isfinite(history.history["loss"][0])
    for old, new in zip(before, model.trainable_variables, strict=True):
        assert np.all(np.isfinite(new)), new.path
        assert np.any(old != new), new.path
