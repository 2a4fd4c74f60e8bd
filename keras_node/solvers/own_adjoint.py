"""Mixin for tfp solvers that are their own adjoint solver."""

import tensorflow as tf


class OwnAdjointSolver:
    """Mixin for solvers that are their own adjoint solver in each copy.

    For subclasses of `tfp.math.ode.Solver`, whose default `lambda: self` does
    not allow that.
    """

    def __getstate__(self):
        # Tolerances that a schedule made variables are numbers in a copy.
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
    """Returns the value of a variable as a float, anything else unchanged.

    Raises:
        TypeError: If it is a tensor of a graph, which a copy cannot hold.
    """
    if isinstance(value, tf.Variable):
        return float(value.numpy())
    if tf.is_tensor(value):
        raise TypeError(
            "A solver that holds a tensor of a graph cannot be saved or "
            f"copied. Use a float or a variable. Received: {value}"
        )
    return value
