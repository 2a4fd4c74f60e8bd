"""Private functions of TensorFlow for tapes, gradients and XLA.

As they are in TensorFlow 2.18 to 2.21.
"""

import contextlib
import functools
import threading
import weakref

import tensorflow as tf
from tensorflow.compiler.tf2xla.ops import gen_xla_ops
from tensorflow.python.eager import record
from tensorflow.python.framework import ops
from tensorflow.python.ops import (
    control_flow_util,
    gradients_util,
    handle_data_util,
    resource_variable_ops,
)

are_recording = record.could_possibly_record
stop_recording = record.stop_recording
variable_accessed = resource_variable_ops.variable_accessed


def is_watched(tensors):
    """Whether a tape may be asked for the gradient to one of the tensors."""
    return record.should_record_backprop(list(tensors))


def may_want_higher_derivatives(tensors):
    """Whether several tapes, or a persistent one, watch the tensors."""
    kind = gradients_util.PossibleTapeGradientTypes(
        [tensor for tensor in tensors if tf.is_tensor(tensor)]
    )
    return kind == gradients_util.POSSIBLE_GRADIENT_TYPES_HIGHER_ORDER


def custom_gradient(function):
    """Returns `tf.custom_gradient(function)` that releases its graphs.

    In a graph TensorFlow registers each gradient under a new name and keeps it
    forever, with the graph that its closure holds. Here the graph holds the
    gradient, and the registry's entry is removed with the graph.
    """
    decorated = tf.custom_gradient(function)

    @functools.wraps(function)
    def call(*args):
        results = decorated(*args)
        if not tf.executing_eagerly():
            _move_gradient_to_graph(tf.nest.flatten(results)[0].op)
        return results

    return call


def _move_gradient_to_graph(op):
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


def _update_slice_gradient(op, grad):
    """Returns the gradient of XLA's update of a slice, which has none."""
    _, update, begin = op.inputs
    zeros = tf.zeros_like(update)
    others = gen_xla_ops.xla_dynamic_update_slice(grad, zeros, begin)
    return others, tf.slice(grad, begin, tf.shape(update)), None


# Under XLA it is the gradient of a slice: the Jacobian of a concatenation,
# which the gradient of a Rosenbrock step differentiates, holds it.
if "XlaDynamicUpdateSlice" not in ops.gradient_registry._registry:
    tf.RegisterGradient("XlaDynamicUpdateSlice")(_update_slice_gradient)


_BUILDING = threading.RLock()


def building_alone():
    """Returns a context in which no other thread exchanges captures.

    All calls of a function share it, but each sets its own captures. Several
    threads share a function only when they build graphs.
    """
    return contextlib.nullcontext() if tf.executing_eagerly() else _BUILDING


def pullback_of(function, outputs, sources):
    """Returns the concrete function of a concrete function's gradient.

    Args:
        function: Concrete function.
        outputs: List of float tensors of its graph.
        sources: List of inputs of its graph.

    Returns:
        `(pullback, is_connected)`: a concrete function from the cotangents of
        the outputs to those of the sources that are connected to them. What
        it needs of the evaluation are its captures, tensors of the graph.
    """
    graph = function.graph

    def gradients_of(*cotangents):
        return gradients_util._GradientsHelper(
            outputs, sources, grad_ys=list(cotangents), src_graph=graph
        )

    return _traced_pullback(graph, outputs, gradients_of)


def pullback_of_operation(op, outputs):
    """Returns the same of an operation's own gradient, by all its inputs.

    Args:
        op: `tf.Operation` of a `FuncGraph`.
        outputs: List of those of its outputs that have cotangents.
    """

    def gradients_of(*cotangents):
        bars = dict(zip(map(id, outputs), cotangents, strict=True))
        bars = [
            bars[id(x)] if id(x) in bars else tf.zeros_like(x)
            for x in op.outputs
        ]
        return tf.nest.flatten([ops.get_gradient_function(op)(op, *bars)])

    return _traced_pullback(op.graph, outputs, gradients_of)


def _traced_pullback(graph, outputs, gradients_of):
    is_connected = []

    def pull_back(*cotangents):
        gradients = gradients_of(*cotangents)
        is_connected[:] = [gradient is not None for gradient in gradients]
        return [tf.convert_to_tensor(g) for g in gradients if g is not None]

    specs = [tf.TensorSpec(output.shape, output.dtype) for output in outputs]
    with graph.as_default():
        traced = tf.function(pull_back, autograph=False)
        pullback = traced.get_concrete_function(*specs)
    return pullback, is_connected


class FlatFunction:
    """The graph of a concrete function, called for any of its tensors.

    A tape does not record the call: what it would differentiate are the
    outputs of the function, not the tensors asked for.

    Args:
        function: Concrete function.
        outputs: List of tensors of its graph.
        has_effects: Whether a call assigns variables and prints as one of
            the function does. Default `True`.

    Call arguments:
        *inputs: The tensors for all inputs of the graph, captures included.
    """

    def __init__(self, function, outputs, has_effects=True):
        graph = function.graph
        own = graph.outputs, graph.control_outputs
        graph.outputs = list(outputs)
        if not has_effects:
            graph.control_outputs = []
        self._function = type(function).from_func_graph(graph, None, {})
        graph.outputs, graph.control_outputs = own
        # `tf.vectorized_map` asks a called function for its graph: one with
        # these outputs is then read from the definition.
        self._function.inference_fn._cached_graph = None
        self._num_captures = len(function.captured_inputs)

    def __call__(self, *inputs):
        count = len(inputs) - self._num_captures
        with stop_recording():
            return self._function._call_flat(
                list(inputs[:count]), list(inputs[count:])
            )


def called_graph(op):
    """Returns the graph of the function that an operation calls, or `None`."""
    if op.type not in ("PartitionedCall", "StatefulPartitionedCall"):
        return None
    return op.graph._get_function(op.get_attr("f").name).graph


def has_functions(op):
    """Whether an operation has functions, as a loop or a call has."""
    attributes = op.node_def.attr.values()
    return any(a.HasField("func") or a.list.func for a in attributes)


def has_custom_gradient(op):
    """Whether an operation has a gradient that is not that of its type."""
    return "_gradient_op_type" in op.node_def.attr


def copy_operation(op, inputs, gradient=None):
    """Copies an operation into the current graph, as a tape records it.

    Args:
        op: `tf.Operation` of another graph, without functions.
        inputs: List of tensors, the inputs of the copy.
        gradient: Callable from the copy and cotangents of its outputs to a
            list of those of its inputs; `None` (default) for that of the type.
    """
    copy = tf.compat.v1.get_default_graph()._create_op_internal(
        op.type,
        inputs,
        [x.dtype for x in op.outputs],
        name=op.name,
        attrs=dict(op.node_def.attr),
        op_def=op.op_def,
    )
    copy._gradient_function = gradient
    for old, new in zip(op.outputs, copy.outputs, strict=True):
        new.set_shape(old.shape)
        handle_data_util.copy_handle_data(old, new)

    def pull_back(*cotangents):
        gradient = ops.get_gradient_function(copy)
        if gradient is None:
            return [None] * len(inputs)
        bars = gradient(copy, *cotangents)
        return bars if isinstance(bars, (list, tuple)) else [bars]

    # Not the inputs of the copy, which are captures of tensors of other graphs.
    record.record_operation(op.type, copy.outputs, inputs, pull_back)
    return copy


def in_xla():
    """Whether the graph being built is for `jit_compile=True`.

    TensorFlow's own while loop asks the same function, which has no public
    name, before it allocates the stacks of its gradient.
    """
    return control_flow_util.GraphOrParentsInXlaContext(
        tf.compat.v1.get_default_graph()
    )


def is_vectorized():
    """Whether `tf.vectorized_map` or `batch_jacobian` traces its function.

    It does so under this name; no public function tells. Nor can a function
    tell that was traced before.
    """
    scopes = [tf.get_current_name_scope()]
    graph = tf.compat.v1.get_default_graph()
    while (graph := getattr(graph, "outer_graph", None)) is not None:
        scopes.append(graph.get_name_scope())
    return any("loop_body" in scope.split("/") for scope in scopes)


def convert_with_autograph(function):
    """Returns a function, converted by AutoGraph where AutoGraph is on.

    `tf.autograph.to_graph` always converts it, and the functions it calls.
    """
    autograph = tf.__internal__.autograph
    return autograph.tf_convert(
        function, autograph.control_status_ctx(), convert_by_default=False
    )


def scratch_graph():
    """Returns a graph to trace into and throw away.

    Variables created in a `tf.function` have no value before it runs.
    """
    return tf.__internal__.FuncGraph("building")


@contextlib.contextmanager
def creating_with(graph, make):
    """Makes `make(create)` create the operations of a graph, not `create`.

    Args:
        graph: `tf.Graph`.
        make: Callable of the graph's own `create(op_type, inputs, ...)` that
            returns another.
    """
    graph._create_op_internal = make(graph._create_op_internal)
    try:
        yield
    finally:
        del graph._create_op_internal
