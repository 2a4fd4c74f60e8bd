"""Tests of whether a gradient to a tensor may be asked for."""

import tensorflow as tf

from keras_node.common import tf_internals

# A tensor with at least this many elements is large.
_LARGE = 1000

# Operations that keep the values of a tensor, or rearrange them.
_VIEWS = {
    "Cast",
    "ExpandDims",
    "Identity",
    "Reshape",
    "Squeeze",
    "Transpose",
}


def is_large(tensor):
    """Whether the gradient to a tensor may cost more than everything else."""
    size = tensor.shape.num_elements()
    return tensor.dtype.is_floating and (size is None or size >= _LARGE)


def is_differentiable(value):
    """Whether a tensor or a variable can have a gradient."""
    return value.dtype.is_floating or value.dtype.is_complex


def in_graph(tensor):
    """Returns a tensor as one of the graph being built, if there is one.

    The gradient of a loop or branch cannot use an eager tensor.
    """
    is_value = tensor.dtype not in (tf.resource, tf.variant)
    if is_value and not tf.executing_eagerly():
        return tf.identity(tensor)
    return tensor


def may_need_gradient(tensor):
    """Whether a gradient to a tensor may be asked for, as far as is known.

    Eagerly the tapes know. In a graph a constant or a stopped tensor needs
    none unless a tape watches it.
    """
    if not is_differentiable(tensor):
        return False
    if tf_internals.is_watched([tensor]):
        return True
    return not tf.executing_eagerly() and not _is_constant(tensor)


def _is_constant(tensor):
    if not tf.is_symbolic_tensor(tensor):
        # A graph may be called under a tape that watches it.
        return False
    op = tensor.op
    if op.type in _VIEWS:
        return _is_constant(op.inputs[0])
    captures = {id(i): o for o, i in getattr(op.graph, "captures", ())}
    if id(tensor) in captures:
        return _is_constant(captures[id(tensor)])
    return op.type in ("Const", "StopGradient")
