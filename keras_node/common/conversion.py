"""Conversion of data from users to tensors, with errors that show the data."""

import reprlib

import tensorflow as tf

from keras_node.common.arguments import as_int32, as_positive_integer

# Errors of TensorFlow, Keras and NumPy for values that are not tensors.
_CONVERSION_ERRORS = (
    AttributeError,
    NotImplementedError,
    OverflowError,
    TypeError,
    ValueError,
    tf.errors.OpError,
)


def as_tensor(value, name, expected="a float tensor or convertible to one"):
    """Returns a tensor of numbers.

    Args:
        value: Any value that a user may pass.
        name: String for messages, the name of the argument.
        expected: String for messages, what the value must be.

    Raises:
        TypeError: If it cannot be converted to a tensor, or the tensor holds
            strings or complex numbers.
    """
    try:
        tensor = tf.convert_to_tensor(value)
    except _CONVERSION_ERRORS as error:
        raise _wrong(value, name, expected) from error
    dtype = tensor.dtype
    if not (dtype.is_floating or dtype.is_integer or dtype.is_bool):
        raise _wrong(value, name, expected)
    return tensor


def as_floats(value, name, dtype):
    """Returns a tensor of a float dtype.

    Args:
        value: Floats, integers or booleans.
        name: String for messages, the name of the argument.
        dtype: Float dtype.

    Raises:
        TypeError: If it cannot be converted to a tensor of numbers.
    """
    return tf.cast(as_tensor(value, name), dtype)


def as_count(value, name):
    """Returns a positive count as an int32 scalar.

    Raises:
        ValueError: If it is neither a positive integer nor a scalar integer
            tensor, whose value is not checked.
    """
    if is_integer_tensor(value) and value.shape.rank == 0:
        return tf.cast(value, tf.int32)
    return tf.constant(as_int32(as_positive_integer(value, name), name))


def is_integer_tensor(value):
    """Whether a value is a tensor or a variable of integers."""
    return (
        isinstance(value, (tf.Tensor, tf.Variable)) and value.dtype.is_integer
    )


def _wrong(value, name, expected):
    return TypeError(
        f"`{name}` must be {expected}. Received: {name}={reprlib.repr(value)} "
        f"of type {type(value).__name__}"
    )
