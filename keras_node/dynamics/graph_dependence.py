"""Dependence of the tensors of a graph on its inputs."""

import numpy as np
import tensorflow as tf

from keras_node.common import tf_internals
from keras_node.dynamics.variable_reads import READS

# Operations whose result depends on the shape of a tensor alone.
_OF_SHAPES = {"Rank", "Shape", "ShapeN", "Size"}
# Operations without an integer input whose shape depends on values.
_SHAPED_BY_VALUES = {
    "Case",
    "EagerPyFunc",
    "If",
    "ListDiff",
    "NonMaxSuppression",
    "NonMaxSuppressionV2",
    "NonMaxSuppressionV3",
    "NonMaxSuppressionV4",
    "NonMaxSuppressionV5",
    "NonMaxSuppressionWithOverlaps",
    "PyFunc",
    "PyFuncStateless",
    "RaggedRange",
    "Range",
    "SparseAdd",
    "StatelessCase",
    "StatelessIf",
    "StatelessWhile",
    "Unique",
    "UniqueV2",
    "UniqueWithCounts",
    "UniqueWithCountsV2",
    "Where",
    "While",
}
_COPIES = {"Identity", "IdentityN"}


def original(tensor):
    """Returns the tensor of the same graph that a tensor is a copy of."""
    if not tf.is_symbolic_tensor(tensor):
        return tensor
    op, index = tensor.op, tensor.value_index
    if op.type in _COPIES:
        return original(op.inputs[index])
    called = tf_internals.called_graph(op)
    if called is None:
        return tensor
    result = original(called.outputs[index])
    places = [i for i, x in enumerate(called.inputs) if x is result]
    return original(op.inputs[places[0]]) if places else tensor


def known_integers(tensor):
    """Returns the integers of a tensor if the graph alone says them, or `None`.

    Such are the axes of a reduction, in a function that the graph calls, too.
    """
    if not tensor.dtype.is_integer:
        return None
    called = tf_internals.called_graph(tensor.op)
    if called is not None:
        return known_integers(called.outputs[tensor.value_index])
    if tensor.op.type == "Reshape":
        # TensorFlow looks through all but this one.
        value, shape = map(tf.get_static_value, tensor.op.inputs)
        is_known = value is not None and shape is not None
        return np.reshape(value, shape) if is_known else None
    return tf.get_static_value(tensor)


class Dependents:
    """The tensors of a graph that depend on others.

    Args:
        graph: `FuncGraph`.
        values: Iterable of ids of its tensors.
        shapes: The same of tensors whose shapes depend on values, too.

    Attributes:
        values: Set of ids of the tensors whose values depend on the values of
            the given ones.
        shapes: The same of those whose shapes do.
    """

    def __init__(self, graph, values, shapes=()):
        self.values, self.shapes = set(values), set(shapes)
        operations = graph.get_operations()
        self._assigns = any(_assigns(op) for op in operations)
        for op in operations:
            called = tf_internals.called_graph(op)
            if called is None:
                self._add_outputs(op)
            else:
                self._add_call(op, called)

    def _add_outputs(self, op):
        depends = any(id(x) in self.values for x in op.inputs)
        by_shape = any(id(x) in self.shapes for x in op.inputs)
        if op.type in _OF_SHAPES:
            depends, by_shape = by_shape, False
        elif op.op_def.is_stateful and (self._assigns or op.type not in READS):
            depends = by_shape = True
        elif depends:
            by_shape |= op.type in _SHAPED_BY_VALUES or any(
                id(x) in self.values and x.dtype.is_integer for x in op.inputs
            )
        if depends:
            self.values.update(id(x) for x in op.outputs)
        if by_shape:
            self._add_shapes(op.outputs)

    def _add_call(self, op, called):
        pairs = list(zip(op.inputs, called.inputs, strict=True))
        inner = Dependents(
            called,
            [id(b) for a, b in pairs if id(a) in self.values],
            [id(b) for a, b in pairs if id(a) in self.shapes],
        )
        # A gradient may have appended outputs since.
        pairs = list(zip(op.outputs, called.outputs, strict=False))
        self.values.update(id(a) for a, b in pairs if id(b) in inner.values)
        self._add_shapes([a for a, b in pairs if id(b) in inner.shapes])

    def _add_shapes(self, tensors):
        self.shapes.update(
            id(x) for x in tensors if not x.shape.is_fully_defined()
        )


def _assigns(op):
    """Whether an operation may assign a variable."""
    if not op.op_def.is_stateful or op.type in READS:
        return False
    called = tf_internals.called_graph(op)
    if called is None:
        return any(x.dtype == tf.resource for x in op.inputs)
    return any(_assigns(inner) for inner in called.get_operations())
