"""Tapes and gradients, where TensorFlow has no public name for the question.

Seen in TensorFlow 2.20 and 2.21.
"""

import functools
import weakref

import tensorflow as tf
from tensorflow.python.eager import record
from tensorflow.python.framework import ops
from tensorflow.python.ops import control_flow_util, gradients_util

are_recording = record.could_possibly_record
stop_recording = record.stop_recording


def is_watched(tensors):
    """Whether a tape may be asked for a gradient of one of the tensors."""
    return record.should_record_backprop(list(tensors))


def may_want_higher_derivatives(tensors):
    """Whether several tapes, or a persistent one, watch the tensors."""
    kind = gradients_util.PossibleTapeGradientTypes(
        [tensor for tensor in tensors if tf.is_tensor(tensor)]
    )
    return kind == gradients_util.POSSIBLE_GRADIENT_TYPES_HIGHER_ORDER


def custom_gradient(function):
    """Returns `tf.custom_gradient(function)` that lets go of its graphs.

    In a graph TensorFlow registers each gradient under a new name, for ever,
    and with it the graph that its closure holds. Here the graph holds the
    gradient, and the registry's entry goes with the graph.
    """
    decorated = tf.custom_gradient(function)

    @functools.wraps(function)
    def call(*args):
        results = decorated(*args)
        if not tf.executing_eagerly():
            _hand_over(tf.nest.flatten(results)[0].op)
        return results

    return call


def _hand_over(op):
    """Moves the gradient of an operation from the registry to its graph."""
    registry = ops.gradient_registry._registry
    name = op.get_attr("_gradient_op_type").decode()
    entry, graph = registry[name], op.graph
    gradients = getattr(graph, "_keras_node_gradients", {})
    graph._keras_node_gradients = {**gradients, name: entry["type"]}
    find_graph = weakref.ref(graph)

    def gradient(*args):
        return find_graph()._keras_node_gradients[name](*args)

    entry["type"] = gradient
    weakref.finalize(graph, registry.pop, name, None)


def in_xla():
    """Whether the graph being built is for `jit_compile=True`.

    TensorFlow's own while loop asks the same function, which has no public
    name, before it allocates the stacks of its gradient.
    """
    return control_flow_util.GraphOrParentsInXlaContext(
        tf.compat.v1.get_default_graph()
    )
