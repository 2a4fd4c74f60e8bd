"""What models have in common whose data have no targets and own loss."""

import reprlib

import keras
import numpy as np
import tensorflow as tf


def check_data(x):
    """Raises `ValueError` for data that Keras would stumble over."""
    arrays = (
        np.ndarray,
        np.generic,
        tf.Tensor,
        tf.Variable,
        keras.KerasTensor,
    )
    if x is not None and not isinstance(x, (tuple, list, dict, *arrays)):
        return  # A dataset, or something that Keras refuses by itself.
    leaves = [leaf for leaf in tf.nest.flatten(x) if leaf is not None]
    if not leaves or not all(
        _is_batch(leaf) for leaf in leaves if isinstance(leaf, arrays)
    ):
        raise ValueError(
            "The data must be arrays of numbers, of at least one sample, or a "
            f"dataset of batches. Received: x={reprlib.repr(x)}"
        )


def _is_batch(array):
    if isinstance(array, keras.KerasTensor):
        return False  # It holds no numbers.
    dtype = array.dtype
    if isinstance(dtype, tf.DType):
        dtype = np.dtype(dtype.as_numpy_dtype)
    # That of bfloat16 is V.
    return dtype.kind in "biufV" and len(array.shape) and array.shape[0] != 0


def spec_of(x):
    """Returns what a batch of data is like, or `None` where it is not known.

    Args:
        x: Arrays, or a dataset of batches of them.
    """
    if isinstance(x, tf.data.Dataset):
        return inputs_of(x.element_spec)
    leaves = tf.nest.flatten(x)
    if not all(hasattr(leaf, "shape") and leaf.shape for leaf in leaves):
        return None
    return tf.nest.map_structure(
        lambda leaf: tf.TensorSpec([None, *leaf.shape[1:]], leaf.dtype), x
    )


def refuse_weights(arguments):
    """Raises `ValueError` for weights, which Keras would drop."""
    for name in ("sample_weight", "class_weight"):
        if arguments.get(name) is not None:
            raise ValueError(
                f"Keras drops `{name}` where there are no targets. Draw the "
                "samples of a dataset as often as they weigh. "
                f"Received: {name}"
            )


def check_compile(arguments):
    """Raises `ValueError` for a loss or metrics: the model has its own."""
    for name in ("loss", "metrics", "weighted_metrics", "loss_weights"):
        if arguments.get(name) is not None:
            raise ValueError(
                "This model has its own loss and metrics: compile it without. "
                f"Received: {name}={arguments[name]!r}"
            )


def inputs_of(data):
    """Returns the inputs of a step's data.

    Raises:
        ValueError: If there are targets besides them.
    """
    inputs, targets, _ = keras.utils.unpack_x_y_sample_weight(data)
    if targets is not None:
        raise ValueError(
            "This model learns from its inputs alone: `fit(x)`. What else it "
            "needs to know goes into the dict of inputs. "
            f"Received: targets {targets}"
        )
    return inputs
