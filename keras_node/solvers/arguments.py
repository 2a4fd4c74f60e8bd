"""Checks of the arguments that solvers share."""

import numbers


def is_positive_integer(value):
    """Whether a value is an integer above 0, of Python or of numpy."""
    is_integer = isinstance(value, numbers.Integral)
    return is_integer and not isinstance(value, bool) and value > 0


def is_positive(value):
    """Whether a value is a number above 0 that a float can hold."""
    return isinstance(value, numbers.Real) and 0 < value < 1e300


def check_common(rtol, atol, max_num_steps, on_failure):
    """Raises `ValueError` for arguments that no solver can take."""
    if not is_positive(rtol):
        raise ValueError(
            f"`rtol` must be a positive float. Received: rtol={rtol}"
        )
    if not is_positive(atol) and not _is_zero(atol):
        raise ValueError(
            f"`atol` must be a nonnegative float. Received: atol={atol}"
        )
    if not is_positive_integer(max_num_steps):
        raise ValueError(
            "`max_num_steps` must be a positive integer. "
            f"Received: max_num_steps={max_num_steps}"
        )
    if on_failure not in ("raise", "nan"):
        raise ValueError(
            '`on_failure` must be "raise" or "nan". '
            f"Received: on_failure={on_failure!r}"
        )


def check_step_sizes(first, safety, smallest, largest):
    if first is not None and not is_positive(first):
        raise ValueError(
            "`first_step_size` must be a positive float in the units of time, "
            f"or `None` to choose it. Received: first_step_size={first}"
        )
    if not is_positive(safety) or safety > 1:
        raise ValueError(
            "`safety_factor` must be above 0 and at most 1. "
            f"Received: safety_factor={safety}"
        )
    are_numbers = is_positive(smallest) and is_positive(largest)
    if not are_numbers or not smallest < 1 < largest:
        raise ValueError(
            "`min_step_size_factor` must lie between 0 and 1, and "
            "`max_step_size_factor` above 1. Received: "
            f"min_step_size_factor={smallest}, max_step_size_factor={largest}"
        )


def _is_zero(value):
    return isinstance(value, numbers.Real) and value == 0
