"""Concrete functions copied into a graph, for gradients under XLA."""

import tensorflow as tf

from keras_node.common import tf_internals
from keras_node.dynamics.gradient_sources import is_differentiable
from keras_node.dynamics.graph_dependence import known_integers


def inline(function, inputs):
    """Copies the operations of a concrete function into the current graph.

    TensorFlow's gradient of a call takes what it needs, axes among it, from
    results that it adds to the call. Under XLA an axis must be a constant, and
    what a call returns is none, or makes constants of all arguments: it is
    refused, or compiled anew for each value. Among operations of one graph an
    axis stays the constant that it is.

    Args:
        function: Concrete function.
        inputs: List of tensors, for all inputs of its graph, those that are
            captured included.

    Returns:
        The outputs of the function, in its structure.
    """
    for variable in function.graph.variables:
        tf_internals.variable_accessed(variable)  # As a call does.
    structure = function.structured_outputs
    # A gradient may have appended outputs since.
    count = len(tf.nest.flatten(structure))
    outputs = _copy(function.graph, inputs, count)
    return tf.nest.pack_sequence_as(structure, outputs)


def is_needed_for(graph):
    """Whether a function is to be copied where its gradient is needed.

    It is under XLA. Loops and conditions are not copied: TensorFlow's gradient
    of one changes it, and its functions.
    """
    return tf_internals.in_xla() and _can_be_copied(graph)


def _can_be_copied(graph):
    return all(map(_can_copy, graph.get_operations()))


def _can_copy(op):
    called = tf_internals.called_graph(op)
    if called is not None:
        return _can_be_copied(called)
    return not tf_internals.has_functions(op)


def _copy(graph, inputs, num_outputs, outer=()):
    """Copies a graph; returns the first of its outputs.

    Args:
        graph: `FuncGraph`.
        inputs: List of tensors, its inputs.
        num_outputs: Integer, how many outputs to return.
        outer: Dict of the copies in the graph around it, by id.
    """
    copies = dict(outer)
    inputs = dict(zip(map(id, graph.inputs), inputs, strict=True))
    copies.update(inputs)
    operations = {}
    for op in graph.get_operations():
        # A small tensor is captured as a constant, which then is an input.
        is_input = any(id(x) in inputs for x in op.outputs)
        if is_input or op.type == "Placeholder":
            continue
        arguments = [copies[id(x)] for x in op.inputs]
        waits_for = [x for x in op.control_inputs if x in operations]
        called = tf_internals.called_graph(op)
        with tf.control_dependencies([operations[x] for x in waits_for]):
            if called is not None:
                found = _copy(called, arguments, len(op.outputs), copies)
            else:
                operations[op] = tf_internals.copy_operation(
                    op, arguments, _custom_gradient(op, copies)
                )
                found = map(_folded, operations[op].outputs)
        copies.update(zip(map(id, op.outputs), found, strict=True))
    return [copies[id(x)] for x in graph.outputs[:num_outputs]]


def _custom_gradient(op, copies):
    """Returns the gradient of a copy, `None` for that of its type.

    A custom one holds tensors of the graph that it was made in: it is traced
    there, and copied.
    """
    if not tf_internals.has_custom_gradient(op):
        return None

    def gradient(copy, *cotangents):
        pairs = zip(op.outputs, cotangents, strict=True)
        pairs = [(x, bar) for x, bar in pairs if is_differentiable(x)]
        outputs, cotangents = zip(*pairs, strict=True)
        pullback, is_connected = tf_internals.pullback_of_operation(op, outputs)
        needs = [copies.get(id(x), x) for x in pullback.captured_inputs]
        if _can_be_copied(pullback.graph):
            bars = inline(pullback, [*cotangents, *needs])
        else:
            pullback.set_external_captures(needs)
            bars = pullback(*cotangents)
        bars = iter(bars)
        return [next(bars) if is_found else None for is_found in is_connected]

    return gradient


def _folded(tensor):
    """Returns an integer tensor as a constant, if the graph alone says it.

    The gradient of a loop keeps any other in an array, which XLA cannot use as
    a shape.
    """
    value = known_integers(tensor)
    return tensor if value is None else tf.constant(value, tensor.dtype)
