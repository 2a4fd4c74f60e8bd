"""The exact gradient of the discrete solution, within a bound of memory."""

import functools

import keras

from keras_node.adjoints.base import Adjoint, require_own_solver
from keras_node.adjoints.checkpoint_recorder import CheckpointRecorder
from keras_node.adjoints.checkpoint_reversal import Reversal
from keras_node.adjoints.custom_gradient import custom_gradient_solve
from keras_node.common.arguments import is_positive_integer


@keras.saving.register_keras_serializable(package="keras_node")
class CheckpointAdjoint(Adjoint):
    """Pulls the gradient back through the accepted steps, last first.

    With `y_{n+1} = Phi(y_n)` the step, `a_n = a_{n+1} dPhi/dy_n` is the exact
    gradient of the discrete solution: nothing is integrated backwards, so
    nothing drifts, and rejected steps play no part.

    The forward pass keeps the activations of its first steps, as many as
    `memory_limit` has room for; their gradient evaluates nothing, except what
    the dense output of `Dopri8` needs. The steps beyond the limit are taken
    again, one at a time, from states that the forward pass keeps, at most
    `max_checkpoints` of them: so memory does not grow with their number. If
    there are more of them, every 2nd, 4th, ... state is kept, and the steps
    between are taken again with their recorded sizes.

    Under XLA, which reserves memory beforehand, the activations of 16 steps
    are kept if they fit into 64 MiB, else none. Dynamics whose activations are
    not plain tensors, such as those with a loop or a condition in them, keep
    none.

    Where part of a state rests exactly it has no error, and steps may grow
    beyond the stability of the method: the exact gradient of such a step is
    large, though that of the continuous problem is not. Request more times,
    or fix the solver's `step_size`. Samples that start at rest as a whole
    have their steps bounded.

    Args:
        max_checkpoints: Integer, at least 2, the most states to store.
            Default 128: of 112 steps beyond the limit of memory each is taken
            again once, of more of them some repeatedly.
        memory_limit: Integer, the most bytes of activations to keep in each
            solve; 0 for none. Default `2**28`, 256 MiB. With `t` steps of `s`
            evaluations it is reached at `t * s` times the activations that
            one call of the dynamics keeps for its gradient.

    Raises:
        ValueError: If `max_checkpoints` is less than 2, or `memory_limit`
            negative.

    Reference:
    - [Hager, 2000](https://doi.org/10.1007/s002110000178)
    - [Zhuang et al., 2020](https://arxiv.org/abs/2006.02493)
    - [Griewank & Walther, 2000](https://doi.org/10.1145/347837.347846)
    """

    citations = ("griewank2000", "hager2000", "zhuang2020")
    _arguments = ("max_checkpoints", "memory_limit")

    def __init__(self, max_checkpoints=128, memory_limit=2**28):
        if not is_positive_integer(max_checkpoints) or max_checkpoints < 2:
            raise ValueError(
                "`max_checkpoints` must be an integer, at least 2. "
                f"Received: max_checkpoints={max_checkpoints!r}"
            )
        if memory_limit != 0 and not is_positive_integer(memory_limit):
            raise ValueError(
                "`memory_limit` must be a number of bytes, an integer, 0 to "
                "keep no activations. "
                f"Received: memory_limit={memory_limit!r}"
            )
        self.max_checkpoints = int(max_checkpoints)
        self.memory_limit = int(memory_limit)

    def solve(self, problem):
        """Solves a `Problem`; returns a `Solution` that is differentiable."""
        require_own_solver(problem.solver, "checkpoint")

        @functools.cache
        def make_recorder():
            return CheckpointRecorder(
                problem, self.max_checkpoints, self.memory_limit
            )

        def backward(problem, result, cotangents):
            return Reversal(problem, result, cotangents, make_recorder()).run()

        return custom_gradient_solve(
            problem, make_recorder, backward, "checkpoint"
        )
