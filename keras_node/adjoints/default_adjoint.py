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

    def solve(self, problem):
        """Solves a `Problem`; returns a `Solution` that is differentiable."""
        if problem.solver.can_replay:
            return CheckpointAdjoint().solve(problem)
        return BacksolveAdjoint().solve(problem)
