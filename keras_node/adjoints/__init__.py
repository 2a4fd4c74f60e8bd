"""Adjoints, the ways to differentiate a solve."""

from keras_node.adjoints.backsolve import BacksolveAdjoint
from keras_node.adjoints.base import Adjoint, Problem
from keras_node.adjoints.checkpoint import CheckpointAdjoint
from keras_node.adjoints.default_adjoint import AutoAdjoint
from keras_node.adjoints.direct import DirectAdjoint
from keras_node.saving import identifiers

_REGISTRY = {
    "auto": AutoAdjoint,
    "checkpoint": CheckpointAdjoint,
    "backsolve": BacksolveAdjoint,
    "direct": DirectAdjoint,
}


def get(identifier):
    """Returns the adjoint that a name, a config dict or an object stands for.

    Args:
        identifier: `"auto"`, `"checkpoint"`, `"backsolve"` or `"direct"`; a
            dict as `serialize` makes it; or an `Adjoint`.

    Raises:
        ValueError: If a name is unknown.
        TypeError: If it is not a name, a dict or an adjoint.

    Example:
    >>> keras_node.adjoints.get("checkpoint").max_checkpoints
    128
    """
    return identifiers.get(identifier, _REGISTRY, "adjoint", Adjoint)


def serialize(adjoint):
    """Returns the config dict of an adjoint."""
    return identifiers.serialize(adjoint, "adjoint")


def integrates_backwards(adjoint, solver):
    """Whether the gradient is from `BacksolveAdjoint`, which may drift."""
    chooses_it = isinstance(adjoint, AutoAdjoint) and not solver.can_replay
    return isinstance(adjoint, BacksolveAdjoint) or chooses_it


def supports_jit(adjoint, solver):
    """Whether XLA compiles a solve and its gradient."""
    backward = getattr(adjoint, "solver", None) or solver
    return solver.can_replay and backward.can_replay


__all__ = [
    "Adjoint",
    "AutoAdjoint",
    "BacksolveAdjoint",
    "CheckpointAdjoint",
    "DirectAdjoint",
    "Problem",
    "get",
    "integrates_backwards",
    "serialize",
    "supports_jit",
]
