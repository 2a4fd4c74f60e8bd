"""Tolerances of a model's solvers that can change while it trains."""

import tensorflow as tf

from keras_node.common import solving_layers


class AdjustableTolerances:
    """The tolerances of all adaptive solvers of a model, to be changed.

    They become variables, which traced functions read at each run, until
    `freeze` makes them floats again.

    Args:
        model: Keras layer or model.

    Attributes:
        solvers: List of the adaptive solvers, each once.

    Raises:
        ValueError: If there is no adaptive solver of this package.
    """

    def __init__(self, model):
        self._model = model
        layers = solving_layers.solving_layers(model)
        found = {id(layer.solver): layer.solver for layer in layers}
        self.solvers = [s for s in found.values() if _is_adaptive(s)]
        if not self.solvers:
            raise ValueError(
                "The model must have an adaptive solver of keras_node, such as "
                "`ODELayer(dynamics, solver=Tsit5())`; the tolerances of "
                "tfp's solvers cannot change. Received: solvers "
                f"{[type(s).__name__ for s in found.values()]}"
            )
        self._replace(_variable)

    def values(self):
        """Returns `(rtol, atol)` of each solver, as floats."""
        return [solver.tolerances for solver in self.solvers]

    def set(self, rtol=None, atol=None):
        """Gives all solvers the same tolerances; `None` leaves them."""
        for solver in self.solvers:
            _assign(solver, "rtol", rtol)
            _assign(solver, "atol", atol)

    def restore(self, values):
        """Gives the solvers what `values` returned."""
        for solver, (rtol, atol) in zip(self.solvers, values, strict=True):
            _assign(solver, "rtol", rtol)
            _assign(solver, "atol", atol)

    def freeze(self):
        """Turns the tolerances into floats of their present values."""
        self._replace(lambda tolerance, value: value)

    def _replace(self, convert):
        is_changed = False
        for solver in self.solvers:
            for name, value in zip(
                ("rtol", "atol"), solver.tolerances, strict=True
            ):
                old = getattr(solver, name)
                new = convert(old, value)
                is_changed |= type(new) is not type(old)
                setattr(solver, name, new)
        if is_changed:
            solving_layers.forget_traces(self._model)


def _assign(solver, name, value):
    tolerance = getattr(solver, name)
    if value is None:
        return
    if isinstance(tolerance, tf.Variable):
        tolerance.assign(value)
    else:  # Another object has frozen it, and made the model trace again.
        setattr(solver, name, value)


def _is_adaptive(solver):
    return solver.can_replay and solver.is_adaptive


def _variable(tolerance, value):
    if isinstance(tolerance, tf.Variable):
        return tolerance
    return tf.Variable(value, trainable=False, dtype=tf.float64)
