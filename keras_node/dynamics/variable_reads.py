"""Reads of variables in a graph, moved to before it is called."""

import contextlib

import tensorflow as tf

from keras_node.common import tf_internals
from keras_node.dynamics import gradient_sources

# Operations that do not assign a variable; a call of a function may.
READS = (
    "ReadVariableOp",
    "ResourceGather",
    "ResourceGatherNd",
    "VarIsInitializedOp",
    "VariableShape",
)


def handle_of(graph, placeholder):
    """Returns the tensor that a placeholder of a graph captures, or `None`."""
    if not tf.is_symbolic_tensor(placeholder):
        return placeholder
    handles = {id(inner): outer for outer, inner in graph.captures}
    return handles.get(id(placeholder))


class VariableReads:
    """The reads of variables in a graph, done before it is called.

    TensorFlow does the same with `FuncGraph.capture_by_value`, but reads in
    the outermost context, and moves the reads of inner functions too, which
    their `tf.function` would keep: it must not keep a value.
    """

    def __init__(self):
        self._is_eager = tf.executing_eagerly()
        self._outside = tf.compat.v1.get_default_graph()
        self._values = {}
        self._unrecorded = {}
        self._assigned = set()
        self.variables = []

    @contextlib.contextmanager
    def moved_out_of(self, graph):
        """Makes operations of `graph` take values in place of handles."""
        self._values = {}

        def capture_reads(create_op):
            def create(op_type, inputs, *args, **kwargs):
                if op_type not in READS:
                    resources = [x for x in inputs if x.dtype == tf.resource]
                    handles = [handle_of(graph, x) for x in resources]
                    self._assigned.update(id(handle) for handle in handles)
                if op_type == "ReadVariableOp":
                    dtype = tf.as_dtype(kwargs["attrs"]["dtype"].type)
                    value = self._read(graph, inputs[0], dtype)
                    if value is not None:
                        # A placeholder has the attributes of a read.
                        return graph.capture(value).op
                return create_op(op_type, inputs, *args, **kwargs)

            return create

        with tf_internals.creating_with(graph, capture_reads):
            yield
        self._forget_handles(graph)

    def is_overtaken(self):
        """Whether a variable that was read beforehand may be assigned later."""
        return not self._assigned.isdisjoint(self._values)

    def value_of(self, capture):
        """Returns a capture such that tapes of the current context see it."""
        if id(capture) not in self._unrecorded:
            return gradient_sources.in_graph(capture)
        handle, dtype, _ = self._unrecorded[id(capture)]
        return tf.raw_ops.ReadVariableOp(resource=handle, dtype=dtype)

    def is_doubtful(self, capture):
        """Whether a large capture is a constant, as far as is known here.

        A graph may be called under a tape that watches what it closes over.
        """
        if self._is_eager or not gradient_sources.is_large(capture):
            return False
        if tf_internals.is_watched([capture]):
            return False
        return not tf.is_symbolic_tensor(capture) or self._is_untrained(capture)

    def _is_untrained(self, capture):
        handles = [
            h for h, _, value in self._values.values() if value is capture
        ]
        return any(
            id(variable.handle) == id(handle) and not variable.trainable
            for handle in handles
            for variable in self.variables
        )

    def _read(self, graph, placeholder, dtype):
        handle = handle_of(graph, placeholder)
        if handle is None or id(handle) in self._assigned:
            return None
        if id(handle) not in self._values:
            value = self._read_outside(handle, dtype)
            self._values[id(handle)] = handle, placeholder, value
        return self._values[id(handle)][-1]

    def _read_outside(self, handle, dtype):
        if not self._is_eager:
            with self._outside.as_default():
                return tf.raw_ops.ReadVariableOp(resource=handle, dtype=dtype)
        # No tape sees this read.
        with tf.init_scope():
            value = tf.raw_ops.ReadVariableOp(resource=handle, dtype=dtype)
        self._unrecorded[id(value)] = handle, dtype, value
        return value

    def _forget_handles(self, graph):
        for handle, placeholder, _ in self._values.values():
            if not placeholder.consumers():
                graph._function_captures.pop(id(handle))
                graph.inputs = [x for x in graph.inputs if x is not placeholder]
