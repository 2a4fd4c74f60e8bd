"""The solver and the adjoint of a layer, and what follows from them."""

from keras_node import adjoints, solvers
from keras_node.common.metrics import Largest


class Solving:
    """Mixin of Keras layers that solve: options that may be exchanged.

    `supports_jit`, and the metric of drift that backsolve has, follow from
    the solver and the adjoint.
    """

    def _set_options(self, solver, adjoint, drift_name):
        """Sets both, and the name of the metric."""
        self._drift_name = drift_name
        self._solver = solvers.get(solver)
        self._adjoint = adjoints.get(adjoint)
        self._options_changed()

    @property
    def solver(self):
        """The solver, which may be exchanged for another at any time."""
        return self._solver

    @solver.setter
    def solver(self, solver):
        self._solver = solvers.get(solver)
        self._options_changed()

    @property
    def adjoint(self):
        """The adjoint, which may be exchanged for another at any time."""
        return self._adjoint

    @adjoint.setter
    def adjoint(self, adjoint):
        self._adjoint = adjoints.get(adjoint)
        self._options_changed()

    def _options_changed(self):
        drifts = adjoints.integrates_backwards(self.adjoint, self.solver)
        self._drift = Largest(self._drift_name) if drifts else None
        self.supports_jit = adjoints.supports_jit(self.adjoint, self.solver)

    def _report_drift(self):
        """Returns what `solve` takes as `on_drift`."""
        return None if self._drift is None else self._drift.update_state
