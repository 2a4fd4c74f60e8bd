"""Dynamics traced to one pure function: weights and captures are inputs."""

import contextlib
import threading

import tensorflow as tf

from keras_node import tapes
from keras_node.conversion import as_tensor
from keras_node.field_layers import reachable_layers
from keras_node.solvers.state import flat_ode_fn, solved_dtype


class TracedField:
    """Dynamics as one concrete function of time, state and captures.

    Python runs the dynamics once, in `trace`. The forward solve, the replay
    and every adjoint call what was traced then: the same function, whatever
    Python variables, attributes or weights do afterwards. A weight is read
    once, before the solve; its value is a capture as any other tensor that
    the dynamics close over.

    Args:
        function: Concrete function of the time and a list of leaves.
        captures: List of the tensors that it closes over.
        variables: Variables that an inner function or loop of the dynamics
            reads, whose value cannot be exchanged.
        is_source: List of booleans, for each capture whether a gradient may
            be asked for; `None` (default) to find out.
        is_doubtful: List of booleans, for each of these captures whether
            hardly anybody asks for it. Default `None`, none.
        read_variables: All variables that the dynamics read.

    Call arguments:
        t: Float tensor, the time, in the dtype of the first leaf.
        leaves: List of float tensors, the state.

    Attributes:
        sources: List of tensors, to which gradients flow: some of the
            captures, and the values of `variables`.
        floats: The same of all captures that are float.
        uses_time: Whether the dynamics depend on time.
    """

    def __init__(
        self,
        function,
        captures,
        variables=(),
        is_source=None,
        is_doubtful=None,
        read_variables=(),
    ):
        self.function = function
        self.read_variables = list(read_variables)
        self.captures = list(captures)
        # Others, such as a count of calls, have no gradient.
        self.variables = [v for v in variables if v.dtype.is_floating]
        if is_source is None:
            is_source = [_may_need_gradient(c) for c in self.captures]
        self.is_source = list(is_source)
        self._is_doubtful = is_doubtful or [False] * len(self.captures)
        values = [tf.convert_to_tensor(v) for v in self.variables]
        needed, doubtful = self._masks()
        self.sources = [
            *self._selected(needed),
            *values,
            *self._selected(doubtful),
        ]
        self.uses_time = _is_used(function.graph.inputs[0])
        floats = [c for c in self.captures if c.dtype.is_floating]
        self.floats = [*floats, *values]

    def __call__(self, t, leaves):
        return _call(self.function, self.captures, t, leaves)

    def local_sources(self):
        """Returns what a tape must watch in the graph that is being built.

        In the body of a loop an outer tensor has two names, its own and that
        of its capture. A copy has one.
        """
        sources = self._selected(self.is_source)
        copies = [tf.identity(tensor) for tensor in sources]
        return copies + self.variables

    def at(self, sources):
        """Returns the dynamics as a function with `local_sources`."""
        rest = iter(sources)
        captures = [
            next(rest) if is_source else capture
            for capture, is_source in zip(
                self.captures, self.is_source, strict=True
            )
        ]
        return lambda t, leaves: _call(self.function, captures, t, leaves)

    def parts(self):
        """Returns the fields of the sources, in their order.

        The gradient to large constants takes as long as all the rest. Apart
        from it, it is no part of a graph in which nobody asks for it.
        """
        needed, doubtful = self._masks()
        if not any(doubtful):
            return [self]
        return [
            TracedField(self.function, self.captures, self.variables, needed),
            TracedField(self.function, self.captures, (), doubtful),
        ]

    def _masks(self):
        pairs = list(zip(self.is_source, self._is_doubtful, strict=True))
        return (
            [source and not doubtful for source, doubtful in pairs],
            [source and doubtful for source, doubtful in pairs],
        )

    def _selected(self, mask):
        pairs = zip(self.captures, mask, strict=True)
        return [capture for capture, is_selected in pairs if is_selected]


def _is_used(tensor):
    # The state in half precision has the time cast.
    return any(
        op.type != "Cast" or _is_used(op.outputs[0])
        for op in tensor.consumers()
    )


class PythonField:
    """Dynamics that Python runs at each evaluation, to be debugged.

    A tape records what they do: they have no sources of their own, and only
    `DirectAdjoint` differentiates a solve of them.

    Args:
        ode_fn: Callable `(t, state) -> derivative`.
        state: Nested structure of float tensors.
    """

    sources = variables = ()

    def __init__(self, ode_fn, state):
        self._flat = flat_ode_fn(ode_fn, state, check_derivative)

    def __call__(self, t, leaves):
        return self._flat(t, leaves)


_LOCK = threading.RLock()


def _call(function, captures, t, leaves):
    # One function serves all calls; what it closes over is each call's own.
    with _LOCK:
        function.set_external_captures(captures)
        return function(t, leaves)


def trace(ode_fn, t_shape, state):
    """Traces dynamics once; returns their `TracedField` of widened leaves.

    Args:
        ode_fn: Callable `(t, state) -> derivative`.
        t_shape: Shape of the time, `()` or `(batch,)`.
        state: Nested structure of float tensors, or of their `TensorSpec`s.

    Raises:
        ValueError: If the derivative does not match the state, or the
            dynamics draw noise.
    """
    reads = _Reads()
    try:
        function = _concrete(ode_fn, t_shape, state, reads)
    except (TypeError, ValueError, tf.errors.OpError) as error:
        if _fails_by_its_clocks(ode_fn, t_shape, state):
            _raise_clocks(state, error)
        raise
    read = reads.variables = list(function.graph.variables)
    is_doubtful = [reads.is_doubtful(c) for c in function.captured_inputs]
    captures = [reads.value_of(c) for c in function.captured_inputs]
    handles = {id(capture) for capture in captures}
    _refuse_noise(function.graph, read)
    inner = [v for v in read if id(v.handle) in handles]
    # A call of the function would tell outer tapes and graphs that it reads
    # these: their values are read by now.
    function.graph.variables = inner
    if _is_ambiguous(t_shape, state) and _fails_by_its_clocks(
        ode_fn, t_shape, state
    ):
        _raise_clocks(state)
    return TracedField(
        function,
        captures,
        inner,
        is_doubtful=is_doubtful,
        read_variables=read,
    )


def _concrete(ode_fn, t_shape, state, reads):
    leaves = [
        tf.TensorSpec(leaf.shape, solved_dtype(tf.as_dtype(leaf.dtype)))
        for leaf in tf.nest.flatten(state)
    ]
    t = tf.TensorSpec(t_shape, leaves[0].dtype)
    flat = flat_ode_fn(ode_fn, state, check_derivative)

    def call(t, leaves):
        graph = tf.compat.v1.get_default_graph()
        with tf.variable_creator_scope(_interrupt), reads.moved_out_of(graph):
            return flat(t, leaves)

    def trace():
        function = tf.function(call, autograph=False)
        traced = function.get_concrete_function(t, leaves)
        # What the dynamics assign themselves is not to be read beforehand.
        return trace() if reads.is_overtaken() else traced

    if not all(layer.built for layer in reachable_layers(ode_fn)):
        _make_weights(flat, t, leaves)
    try:
        return trace()
    except _MakesWeights:
        _make_weights(flat, t, leaves)
        return trace()


class _MakesWeights(Exception):
    """Layers of the dynamics are not built yet."""


def _interrupt(next_creator, **kwargs):
    raise _MakesWeights(kwargs.get("name"))


def _make_weights(flat, t, leaves):
    """Calls dynamics whose layers are not built, in a graph of no use.

    A `tf.function` gives variables that are made in it no value before it runs.
    """
    with tf.__internal__.FuncGraph("building").as_default():
        flat(*tf.nest.map_structure(_placeholder, (t, leaves)))


def _placeholder(spec):
    return tf.compat.v1.placeholder(spec.dtype, spec.shape)


def _refuse_noise(graph, variables):
    """Raises `ValueError` if the dynamics draw from a `SeedGenerator`."""
    states = {
        id(v.handle) for v in variables if "seed_generator_state" in v.name
    }
    for op in graph.get_operations():
        if op.type in _ASSIGNMENTS:
            if id(_handle_of(graph, op.inputs[0])) in states:
                raise ValueError(
                    "`dynamics` must be a function of time and state, not "
                    "draw noise: a solver takes noise for error. Draw it "
                    "before the solve, and close over it. Received: dynamics "
                    "that use a `keras.random.SeedGenerator`"
                )


_ASSIGNMENTS = (
    "AssignAddVariableOp",
    "AssignSubVariableOp",
    "AssignVariableOp",
)


def _handle_of(graph, placeholder):
    """Returns what a placeholder of a graph stands for, or `None`."""
    handles = {id(inner): outer for outer, inner in graph.captures}
    return handles.get(id(placeholder))


class _Reads:
    """The reads of variables in a graph, done before it is called.

    TensorFlow does the same with `FuncGraph.capture_by_value`, but reads in
    the outermost context, and moves the reads of inner functions too: these
    are kept by their `tf.function`, which must not keep a value.
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
        """Lets operations of `graph` take values in the place of handles."""
        create_op = graph._create_op_internal
        self._values = {}

        def create(op_type, inputs, *args, **kwargs):
            if op_type in _ASSIGNMENTS:
                self._assigned.add(id(_handle_of(graph, inputs[0])))
            if op_type == "ReadVariableOp":
                dtype = tf.as_dtype(kwargs["attrs"]["dtype"].type)
                value = self._read(graph, inputs[0], dtype)
                if value is not None:
                    # A placeholder has the attributes of a read.
                    return graph.capture(value).op
            return create_op(op_type, inputs, *args, **kwargs)

        graph._create_op_internal = create
        try:
            yield
        finally:
            del graph._create_op_internal
        self._forget_handles(graph)

    def is_overtaken(self):
        """Whether a variable that was read beforehand is assigned later."""
        return not self._assigned.isdisjoint(self._values)

    def value_of(self, capture):
        """Returns a capture, as the tapes of the current context know it."""
        if id(capture) not in self._unrecorded:
            return _in_graph(capture)
        handle, dtype, _ = self._unrecorded[id(capture)]
        return tf.raw_ops.ReadVariableOp(resource=handle, dtype=dtype)

    def is_doubtful(self, capture):
        """Whether a large capture is a constant, unless a tape far away.

        A graph may be called under a tape that watches what it closes over.
        """
        if self._is_eager or not _is_large(capture):
            return False
        if tapes.is_watched([capture]):
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
        handle = _handle_of(graph, placeholder)
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
        # No tape sees this one.
        with tf.init_scope():
            value = tf.raw_ops.ReadVariableOp(resource=handle, dtype=dtype)
        self._unrecorded[id(value)] = handle, dtype, value
        return value

    def _forget_handles(self, graph):
        for handle, placeholder, _ in self._values.values():
            if not placeholder.consumers():
                graph._function_captures.pop(id(handle))
                graph.inputs = [x for x in graph.inputs if x is not placeholder]


def _is_ambiguous(t_shape, state):
    """Whether `y * t` with a clock for each sample may pass unseen.

    It does where the batch is as large as another axis, or of unknown size.
    """
    if len(t_shape) == 0:
        return False
    leaves = tf.nest.flatten(state)
    batch = leaves[0].shape[0]
    sizes = {size for leaf in leaves for size in leaf.shape[1:]}
    return batch in {None, 1, *sizes}


def _fails_by_its_clocks(ode_fn, t_shape, state):
    """Whether dynamics of another batch need a scalar time to be traced."""
    if len(t_shape) == 0:
        return False
    sizes = [size for x in tf.nest.flatten(state) for size in x.shape[1:]]
    batch = next(size for size in _BATCHES if size not in sizes)
    state = tf.nest.map_structure(
        lambda leaf: tf.TensorSpec([batch, *leaf.shape[1:]], leaf.dtype), state
    )

    def is_traced(t_shape):
        try:
            _concrete(ode_fn, t_shape, state, _Reads())
        except (TypeError, ValueError, tf.errors.OpError):
            return False
        return True

    return not is_traced([batch]) and is_traced([])


# Batches of sizes that hardly any axis has.
_BATCHES = (8191, 8209, 8219, 8221, 8231, 8233, 8237)


def _raise_clocks(state, error=None):
    raise ValueError(
        "With a clock for each sample the dynamics get `t` of shape (batch,), "
        "which does not broadcast against a state of more axes. Use "
        "`keras_node.ConcatTime(net)`, or give `t` as many axes: "
        "`tf.reshape(t, [-1, 1]) * y`. Received: dynamics that work with a "
        f"scalar `t` alone, a state of shapes "
        f"{[tuple(x.shape) for x in tf.nest.flatten(state)]}"
    ) from error


def _is_large(tensor):
    size = tensor.shape.num_elements()
    return tensor.dtype.is_floating and (size is None or size >= _LARGE)


def _in_graph(tensor):
    """Returns a tensor of the graph that is being built, if there is one.

    The gradient of a loop or branch knows no eager tensor.
    """
    is_value = tensor.dtype not in (tf.resource, tf.variant)
    if is_value and not tf.executing_eagerly():
        return tf.identity(tensor)
    return tensor


# From this size on, the gradient to a constant may take longer than the rest.
_LARGE = 1000

# What leaves the values of a tensor as they are, or rearranges them.
_VIEWS = {
    "Cast",
    "ExpandDims",
    "Identity",
    "Reshape",
    "Squeeze",
    "Transpose",
}


def _may_need_gradient(tensor):
    """Whether a gradient of a tensor may be asked for, as far as one can tell.

    Eagerly the tapes know. In a graph a constant or a stopped tensor needs
    none unless a tape watches it.
    """
    if not tensor.dtype.is_floating:
        return False
    if tapes.is_watched([tensor]):
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


def check_derivative(derivative, state):
    """Returns a derivative as tensors.

    Raises:
        ValueError: If it does not match the state.
    """
    _check_structure(derivative, state)
    derivative = tf.nest.map_structure(
        lambda slope: as_tensor(slope, "derivative"), derivative
    )
    pairs = zip(
        tf.nest.flatten(derivative), tf.nest.flatten(state), strict=True
    )
    for slope, leaf in pairs:
        if solved_dtype(slope.dtype) != solved_dtype(leaf.dtype):
            raise ValueError(
                "The dynamics must return a derivative of the state's dtype. "
                f"Received: derivative of dtype {slope.dtype.name}, state of "
                f"dtype {leaf.dtype.name}"
            )
        if not _is_same_shape(slope.shape, leaf.shape):
            raise ValueError(
                "The dynamics must return a derivative of the state's shape; "
                "end it with a layer that has as many units or filters as "
                f"the state. Received: derivative of shape {slope.shape}, "
                f"state of shape {leaf.shape}"
            )
    return derivative


def _check_structure(derivative, state):
    hint = ""
    if any(leaf is None for leaf in tf.nest.flatten(derivative)):
        hint = " Is a `return` missing?"
    else:
        try:
            return tf.nest.assert_same_structure(state, derivative)
        except (TypeError, ValueError):
            pass
    raise ValueError(
        "The dynamics must return a derivative of the state's structure."
        f"{hint} Received: derivative={derivative}, state={state}"
    )


def _is_same_shape(shape, expected):
    # Only as many axes as both know; a state (None, 2) and (3, 2) agree.
    return shape.rank is None or (
        shape.rank == expected.rank and shape.is_compatible_with(expected)
    )
