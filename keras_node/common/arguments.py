"""Checks and conversions of arguments."""

import math
import numbers

import numpy as np
import tensorflow as tf

# A solve allocates memory for every step that it may take.
_MOST_STEPS = 10_000_000


def is_integer(value):
    """Whether a value is a Python or NumPy integer."""
    return isinstance(value, numbers.Integral) and not is_boolean(value)


def is_positive_integer(value):
    """Whether a value is a Python or NumPy integer above 0."""
    return is_integer(value) and value > 0


def is_positive(value):
    """Whether a value is a number above 0 that a float can hold."""
    return is_finite(value) and value > 0


def is_nonnegative(value):
    """Whether a value is a number, at least 0, that a float can hold."""
    return is_finite(value) and value >= 0


def is_finite(value):
    """Whether a value is a number that a float can hold."""
    if not isinstance(value, numbers.Real) or is_boolean(value):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # An integer of hundreds of digits.
        return False


def is_boolean(value):
    """Whether a value is a Python or NumPy boolean."""
    return isinstance(value, (bool, np.bool_))


def as_boolean(value, name):
    """Converts a boolean, or the integer 0 or 1, to `bool`.

    Raises:
        TypeError: If the value is anything else.
    """
    is_one = is_boolean(value) or is_integer(value) and value in (0, 1)
    if not is_one:
        raise TypeError(
            f"`{name}` must be a boolean. Received: {name}={value!r}"
        )
    return bool(value)


def as_positive_integer(value, name):
    """Converts a Python or NumPy integer above 0 to `int`.

    Raises:
        ValueError: If the value is anything else.
    """
    if not is_positive_integer(value):
        raise ValueError(
            f"`{name}` must be a positive integer. Received: {name}={value!r}"
        )
    return int(value)


def as_int32(value, name):
    """Converts a Python or NumPy integer to `int`.

    Raises:
        TypeError: If the value is anything else.
        ValueError: If it does not fit in 32 bits.
    """
    if not is_integer(value):
        raise TypeError(
            f"`{name}` must be an integer. Received: {name}={value!r}"
        )
    if not -(2**31) <= value < 2**31:
        raise ValueError(
            f"`{name}` must be a 32-bit integer. Received: {name}={value}"
        )
    return int(value)


def as_time(value, name):
    """Returns a time as a float.

    Raises:
        TypeError: If it is not a number.
        ValueError: If it is not finite.
    """
    value = _as_scalar(value)
    if not isinstance(value, numbers.Real) or is_boolean(value):
        raise TypeError(
            f"`{name}` must be a time, a float. Received: {name}={value!r}"
        )
    if not is_finite(value):
        raise ValueError(f"`{name}` must be finite. Received: {name}={value}")
    return float(value)


def check_among(value, name, names):
    """Raises `ValueError` unless a value is one of `names`."""
    if not isinstance(value, str) or value not in names:
        raise ValueError(
            f"`{name}` must be one of {list(names)}. Received: {name}={value!r}"
        )


def check_common(rtol, atol, first_step_size, max_num_steps, on_failure):
    """Raises `ValueError` if an argument that all solvers share is invalid."""
    if not is_positive(rtol):
        raise ValueError(
            f"`rtol` must be a positive float. Received: rtol={rtol!r}"
        )
    if not is_nonnegative(atol):
        raise ValueError(
            f"`atol` must be a nonnegative float. Received: atol={atol!r}"
        )
    if first_step_size is not None and not _is_step_size(first_step_size):
        raise ValueError(
            "`first_step_size` must be a positive float in the units of time, "
            "or a scalar float tensor, or, where the solver can choose it, "
            f"`None`. Received: first_step_size={first_step_size!r}"
        )
    if not is_positive_integer(max_num_steps) or max_num_steps > _MOST_STEPS:
        raise ValueError(
            "`max_num_steps` must be a positive integer, at most "
            f"{_MOST_STEPS}. Received: max_num_steps={max_num_steps!r}"
        )
    check_among(on_failure, "on_failure", ("raise", "nan"))


def as_step_size(value):
    """Returns a step size as a float, or as a tensor if not yet known.

    The value of a variable, or of a tensor in a graph, is known only when
    the solve runs.
    """
    is_unknown = tf.is_tensor(value) and not _is_known(value)
    return value if is_unknown else _as_scalar(value)


def _is_step_size(value):
    if tf.is_tensor(value) and not _is_known(value):
        is_scalar = value.shape.rank in (0, None)
        return is_scalar and value.dtype.is_floating
    return is_positive(_as_scalar(value))


def _is_known(tensor):
    """Whether a tensor has a fixed value already."""
    return hasattr(tensor, "numpy") and not isinstance(tensor, tf.Variable)


def check_step_size_factors(safety, smallest, largest):
    """Raises `ValueError` if a factor of step size control is invalid."""
    if not is_positive(safety) or safety > 1:
        raise ValueError(
            "`safety_factor` must be above 0 and at most 1. "
            f"Received: safety_factor={safety!r}"
        )
    are_numbers = is_positive(smallest) and is_positive(largest)
    if not are_numbers or not smallest < 1 < largest:
        raise ValueError(
            "`min_step_size_factor` must lie between 0 and 1, and "
            "`max_step_size_factor` above 1. Received: "
            f"min_step_size_factor={smallest!r}, "
            f"max_step_size_factor={largest!r}"
        )


def _as_scalar(value):
    """Returns the number in a scalar array or tensor, or the value itself."""
    is_array = hasattr(value, "numpy") or isinstance(value, np.ndarray)
    if is_array and np.ndim(value) == 0:
        return np.asarray(value).item()
    return value
