"""Base class and checks of models that train without targets."""

import reprlib

import keras
import numpy as np
import tensorflow as tf


class UnsupervisedModel(keras.Model):
    """A Keras model that learns from its inputs alone: `fit(x)`."""

    def prepare(self, x):
        """Returns data as Keras takes them, checked where they can be."""
        return x

    def is_outdated(self, name):
        """Whether what a traced function reads has changed since.

        Args:
            name: `"train"`, `"test"` or `"predict"`, which function.
        """
        return False

    def make_train_function(self, force=False):
        return super().make_train_function(force or self.is_outdated("train"))

    def make_test_function(self, force=False):
        return super().make_test_function(force or self.is_outdated("test"))

    def make_predict_function(self, force=False):
        return super().make_predict_function(
            force or self.is_outdated("predict")
        )

    def fit(self, x=None, *args, **kwargs):
        """Does what `keras.Model.fit` does, for `x` without targets."""
        check_data(x)
        refuse_weights(kwargs)
        return super().fit(self.prepare(x), *args, **kwargs)

    def evaluate(self, x=None, *args, **kwargs):
        """Does what `keras.Model.evaluate` does, for `x` without targets."""
        check_data(x)
        refuse_weights(kwargs)
        return super().evaluate(self.prepare(x), *args, **kwargs)

    def predict(self, x, *args, **kwargs):
        """Does what `keras.Model.predict` does."""
        return super().predict(self.prepare(x), *args, **kwargs)


def check_data(x):
    """Raises `ValueError` for data that would fail obscurely in Keras."""
    arrays = (
        np.ndarray,
        np.generic,
        tf.Tensor,
        tf.Variable,
        keras.KerasTensor,
    )
    if x is not None and not isinstance(x, (tuple, list, dict, *arrays)):
        return  # A dataset, or something that Keras itself refuses.
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
    # The kind of bfloat16 is V.
    return dtype.kind in "biufV" and len(array.shape) and array.shape[0] != 0


def spec_of(x):
    """Returns the specs of a batch of data, or `None` if they are unknown.

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
    """Raises `ValueError` for weights of data, which Keras would drop."""
    for name in ("sample_weight", "class_weight"):
        if arguments.get(name) is not None:
            raise ValueError(
                f"Keras drops `{name}` where there are no targets. Draw "
                "samples from a dataset in proportion to their weights. "
                f"Received: {name}"
            )


def check_compile(arguments):
    """Raises `ValueError` for a loss or metrics: the model has its own."""
    for name in ("loss", "metrics", "weighted_metrics", "loss_weights"):
        if arguments.get(name) is not None:
            raise ValueError(
                "This model has its own loss and metrics: do not pass any. "
                f"Received: {name}={arguments[name]!r}"
            )


def inputs_of(data):
    """Returns the inputs in the data of a step.

    Raises:
        ValueError: If there are targets, too.
    """
    inputs, targets, _ = keras.utils.unpack_x_y_sample_weight(data)
    if targets is not None:
        raise ValueError(
            "This model learns from its inputs alone: `fit(x)`. Anything else "
            "that it needs goes into the dict of inputs. "
            f"Received: targets {targets}"
        )
    return inputs
