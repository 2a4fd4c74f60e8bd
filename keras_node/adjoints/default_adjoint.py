"""The default adjoint, which depends on the solver."""

import keras

from keras_node.adjoints.backsolve import BacksolveAdjoint
from keras_node.adjoints.base import Adjoint
from keras_node.adjoints.checkpoint import CheckpointAdjoint


@keras.saving.register_keras_serializable(package="keras_node")
class AutoAdjoint(Adjoint):
    """`CheckpointAdjoint` for this package's solvers, else `BacksolveAdjoint`.

    Exact gradients are the better default: integrating the state backwards
    drifts where the dynamics contract.
    """

    citations = CheckpointAdjoint.citations

    def choose(self, solver):
        """Returns the adjoint for a solver."""
        return CheckpointAdjoint() if solver.can_replay else BacksolveAdjoint()

    def solve(self, problem):
        """Solves a `Problem`; returns a `Solution` that is differentiable."""
        return self.choose(problem.solver).solve(problem)
