"""Mixin for the solver and the adjoint of a Keras layer."""

from keras_node import adjoints, solvers
from keras_node.common.nfe_metrics import Largest


class Solving:
    """Mixin for Keras layers that solve: options that may be replaced.

    The next call uses the new ones. A model of Keras keeps the functions that
    it has traced for `fit`, `evaluate` and `predict`, as after any change of a
    layer, until it is compiled again; a `NormalizingFlow` and a `LatentODE` see
    the change.

    `supports_jit` follows the solver and the adjoint. The drift metric is that
    of the first adjoint, as Keras adds none to a layer that is built.
    """

    def _set_options(self, solver, adjoint, drift_name):
        """Sets solver and adjoint, and the name of the drift metric."""
        self._drift_name = drift_name
        self._solver = solvers.get(solver)
        self._adjoint = adjoints.get(adjoint)
        self._make_drift()
        self._options_changed()

    @property
    def solver(self):
        """The solver, which may be replaced.

        A Keras model that has traced `fit` or `predict` keeps the former one:
        compile it again, or call `model.make_predict_function(force=True)`.
        """
        return self._solver

    @solver.setter
    def solver(self, solver):
        self._solver = solvers.get(solver)
        self._options_changed()

    @property
    def adjoint(self):
        """The adjoint, which may be replaced, as the solver."""
        return self._adjoint

    @adjoint.setter
    def adjoint(self, adjoint):
        self._adjoint = adjoints.get(adjoint)
        self._options_changed()

    def _make_drift(self):
        drifts = adjoints.integrates_backwards(self.adjoint, self.solver)
        self._drift = Largest(self._drift_name) if drifts else None

    def _options_changed(self):
        self.supports_jit = adjoints.supports_jit(self.adjoint, self.solver)

    def _report_drift(self):
        """Returns the argument `on_drift` of `solve`."""
        return None if self._drift is None else self._drift.update_state
