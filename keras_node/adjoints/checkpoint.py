"""The exact gradient of the discrete solution, from a few stored states."""

import keras

from keras_node.adjoints import checkpoint_store
from keras_node.adjoints.base import Adjoint, require_own_solver
from keras_node.adjoints.checkpoint_reversal import Reversal
from keras_node.adjoints.custom_gradient import custom_gradient_solve
from keras_node.common.arguments import is_positive_integer


@keras.saving.register_keras_serializable(package="keras_node")
class CheckpointAdjoint(Adjoint):
    """Takes the accepted steps again, last first, and differentiates each.

    With `y_{n+1} = Phi(y_n)` the step, `a_n = a_{n+1} dPhi/dy_n` is the exact
    gradient of the discrete solution: nothing is integrated backwards, so
    nothing drifts. Memory is that of one step's activations and of
    `max_checkpoints` states, whatever the number of steps. A solve with more
    steps keeps every 2nd, 4th, ... state and takes the steps between again,
    with their recorded sizes.

    Where part of a state rests exactly it has no error, and steps may grow
    beyond the stability of the method: the exact gradient of such a step is
    large, though that of the continuous problem is not. Request more times,
    or fix the solver's `step_size`. Samples that start at rest as a whole
    have their steps bounded.

    Args:
        max_checkpoints: Integer, at least 2, the most states to store.
            Default 128. A solve with fewer steps repeats none.

    Raises:
        ValueError: If `max_checkpoints` is less than 2.

    Reference:
    - [Zhuang et al., 2020](https://arxiv.org/abs/2006.02493)
    - [Griewank & Walther, 2000](https://doi.org/10.1145/347837.347846)
    """

    _arguments = ("max_checkpoints",)

    def __init__(self, max_checkpoints=128):
        if not is_positive_integer(max_checkpoints) or max_checkpoints < 2:
            raise ValueError(
                "`max_checkpoints` must be an integer, at least 2. "
                f"Received: max_checkpoints={max_checkpoints!r}"
            )
        self.max_checkpoints = int(max_checkpoints)

    def solve(self, problem):
        """Solves a `Problem`; returns a `Solution` that is differentiable."""
        require_own_solver(problem.solver, "checkpoint")
        recorder = checkpoint_store.CheckpointRecorder(
            problem.solver.max_num_steps, self.max_checkpoints
        )

        def forward(times, y, records):
            return problem.solver.integrate(
                problem.field,
                times,
                y,
                recorder=recorder if records else None,
                norm=problem.norm(),
            )

        def backward(problem, result, cotangents):
            return Reversal(problem, result, cotangents).run()

        return custom_gradient_solve(problem, forward, backward, "checkpoint")
