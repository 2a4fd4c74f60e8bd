"""A solver that is its own adjoint solver, and can be pickled."""

import tensorflow as tf


class OwnAdjointSolver:
    """What tfp's default, `lambda: self`, does not allow: copies of its own.

    For subclasses of `tfp.math.ode.Solver`.
    """

    def __getstate__(self):
        # What a schedule made variables are numbers in a copy.
        state = dict(self.__dict__)
        for name in ("rtol", "atol", "first_step_size"):
            if name in state:
                state[name] = as_number(state[name])
        return state

    def get_config(self):
        """Returns the arguments that make an equal solver."""
        config = super().get_config()
        return {name: as_number(value) for name, value in config.items()}

    def _itself(self):
        return self


def as_number(value):
    """Returns the value of a variable as a float, and all else as it is.

    Raises:
        TypeError: If it is a tensor of a graph, which no copy can hold.
    """
    if isinstance(value, tf.Variable):
        return float(value.numpy())
    if tf.is_tensor(value):
        raise TypeError(
            "A solver that holds a tensor of a graph cannot be saved or "
            f"copied. Use a float or a variable. Received: {value}"
        )
    return value
