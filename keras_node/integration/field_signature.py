"""Signatures of traced functions: equal ones compute the same."""

import tensorflow as tf

# Operations that call Python when they run cannot be compared.
_PYTHON_OPS = {"EagerPyFunc", "PyFunc", "PyFuncStateless"}
_CUSTOM_GRADIENT = "_gradient_op_type"
# Names of other nodes, which differ in each trace.
_IGNORED_ATTRIBUTES = {"_class", "_user_specified_name"}
_FUNCTION_ATTRIBUTES = {"_XlaMustCompile", "_noinline"}


def signature_of(function):
    """Returns a hashable that equal concrete functions share.

    They are equal if their operations and constants are, whatever the names;
    if an operation has a custom gradient, those of the gradient, too.

    Args:
        function: Concrete function of a tensor and a list of tensors.

    Returns:
        A tuple, or `None` for functions that call Python when they run.
    """
    reader = _Reader(function)
    signature = reader.signature
    if reader.calls_python:
        return None
    if reader.has_custom_gradients:
        vjp = _Reader(_vjp_of(function))
        return None if vjp.calls_python else (signature, vjp.signature)
    return signature


def _vjp_of(function):
    """Returns the concrete function of a function's gradient."""
    (t, leaves), _ = function.structured_input_signature
    outputs = [tf.TensorSpec(x.shape, x.dtype) for x in function.outputs]
    captures = list(function.captured_inputs)
    floats = [c for c in captures if c.dtype.is_floating]

    def vjp(t, leaves, cotangents):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            sources = [t, leaves, floats]
            tape.watch(sources)
            slopes = function(t, leaves)
        return tape.gradient(
            slopes,
            sources,
            output_gradients=cotangents,
            unconnected_gradients=tf.UnconnectedGradients.ZERO,
        )

    return tf.function(vjp, autograph=False).get_concrete_function(
        t, leaves, outputs
    )


class _Reader:
    """Reads the definition of a graph, except the names in it."""

    def __init__(self, function):
        # Shapes may depend on the values of small inputs, which are left out.
        definition = function.graph.as_graph_def(add_shapes=True)
        self._library = {
            f.signature.name: f for f in definition.library.function
        }
        self._functions = {}
        self.has_custom_gradients = False
        self.calls_python = False
        numbers = self._numbers = _numbers(
            node.name for node in definition.node
        )
        outputs = function.graph.outputs
        # TensorFlow writes small values into a graph, even those of inputs.
        self._floats = {
            x.op.name for x in function.graph.inputs if x.dtype.is_floating
        }
        self.signature = (
            tuple(numbers[x.op.name] for x in function.graph.inputs),
            self._nodes(definition.node, numbers),
            tuple((numbers[x.op.name], x.value_index) for x in outputs),
        )

    def _nodes(self, nodes, numbers):
        return tuple(self._node(node, numbers) for node in nodes)

    def _node(self, node, numbers):
        if numbers is self._numbers and node.name in self._floats:
            return "input", node.attr["dtype"].type
        self.calls_python |= node.op in _PYTHON_OPS
        attributes = []
        for name in sorted(node.attr):
            if name == _CUSTOM_GRADIENT:
                self.has_custom_gradients = True
            elif name not in _IGNORED_ATTRIBUTES:
                attributes.append((name, self._attribute(node.attr[name])))
        inputs = tuple(_reference(name, numbers) for name in node.input)
        return node.op, inputs, tuple(attributes), node.device

    def _attribute(self, value):
        kind = value.WhichOneof("value")
        if kind == "func":
            return self._function(value.func.name)
        if kind == "list" and value.list.func:
            return tuple(self._function(f.name) for f in value.list.func)
        return value.SerializeToString(deterministic=True)

    def _function(self, name):
        """Returns the signature of a function in the library."""
        if name not in self._library:
            return name
        if name not in self._functions:
            function = self._library[name]
            arguments = [arg.name for arg in function.signature.input_arg]
            nodes = [node.name for node in function.node_def]
            numbers = _numbers([*arguments, *nodes])
            self._functions[name] = (
                tuple(arg.type for arg in function.signature.input_arg),
                self._nodes(function.node_def, numbers),
                tuple(
                    _reference(function.ret[arg.name], numbers)
                    for arg in function.signature.output_arg
                ),
                tuple(
                    function.attr[name].SerializeToString()
                    for name in sorted(_FUNCTION_ATTRIBUTES)
                    if name in function.attr
                ),
            )
        return self._functions[name]


def _numbers(names):
    return {name: number for number, name in enumerate(names)}


def _reference(name, numbers):
    """Returns what an input such as `^node` or `node:output:0` refers to."""
    node, *output = name.lstrip("^").split(":")
    return name.startswith("^"), numbers[node], *output
