"""Dynamics traced to one pure function: weights and captures are inputs."""

import functools

import tensorflow as tf

from keras_node.common import tf_internals
from keras_node.common.held_layers import reachable_layers
from keras_node.common.nested_solves import within_dynamics
from keras_node.common.state import flat_ode_fn, solved_dtype
from keras_node.dynamics import derivative_checks, inlining
from keras_node.dynamics.gradient_sources import (
    is_differentiable,
    may_need_gradient,
)
from keras_node.dynamics.jacobian import linearize
from keras_node.dynamics.traced_transform import TracedTransform
from keras_node.dynamics.variable_reads import VariableReads


class TracedField:
    """Dynamics as one concrete function of time, state and captures.

    Python runs the dynamics once, in `trace`. The forward solve, the replay
    and every adjoint call the function traced then, even if Python variables,
    attributes or weights change afterwards. A weight is read once, before the
    solve; its value is a capture like any other tensor that the dynamics
    close over.

    Args:
        function: Concrete function of the time and a list of leaves.
        captures: List of the tensors that it closes over.
        variables: Variables that an inner function or loop of the dynamics
            reads, whose value cannot be replaced by a capture.
        is_source: List of booleans, for each capture whether a gradient may
            be asked for; `None` (default) to find out.
        is_doubtful: List of booleans, for each capture whether that is
            unlikely. With `None` (default) it is for none.
        read_variables: All variables that the dynamics read.

    Call arguments:
        t: Float tensor, the time, in the dtype of the first leaf.
        leaves: List of float tensors, the state.

    Attributes:
        sources: List of tensors, to which gradients flow: some of the
            captures, and the values of `variables`.
        values: List of tensors, the values of `variables` on creation.
        floats: List of tensors, the float captures and `values`.
        uses_time: Whether the dynamics depend on time.
        num_leaves: Integer, the number of leaves of the state.
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
        self.variables = [v for v in variables if is_differentiable(v)]
        if is_source is None:
            is_source = [may_need_gradient(c) for c in self.captures]
        self.is_source = list(is_source)
        self._is_doubtful = is_doubtful or [False] * len(self.captures)
        values = [tf.convert_to_tensor(v) for v in self.variables]
        self.values = values
        needed, doubtful = self._masks()
        self.sources = [
            *self._selected(needed),
            *values,
            *self._selected(doubtful),
        ]
        self.uses_time = _is_used(function.graph.inputs[0])
        self.num_leaves = len(function.graph.inputs) - 1 - len(self.captures)
        floats = [c for c in self.captures if c.dtype.is_floating]
        self.floats = [*floats, *values]

    def __call__(self, t, leaves):
        return self.called_with(self.captures, t, leaves)

    def called_with(self, captures, t, leaves):
        """Returns the derivative for other values of the captures."""
        with tf_internals.building_alone():
            self.function.set_external_captures(captures)
            return self.function(t, leaves)

    @functools.cached_property
    def linearization(self):
        """`linearize` of the field, traced when it is first asked for."""
        return TracedTransform(
            self, functools.partial(linearize, uses_time=self.uses_time)
        )

    def linearize(self, t, leaves):
        """Returns the `Linear` of the dynamics; see `jacobian.linearize`."""
        return self.linearization(self.captures, t, leaves)

    @property
    def recorded(self):
        """The field as a `RecordedField`."""
        return self.recorded_with(self.captures)

    def recorded_with(self, captures):
        """Returns the same for other values of the captures."""
        return RecordedField(self, captures)

    def with_copies(self):
        """Returns the field with copies of its sources, and these, in order.

        In the body of a loop an outer tensor is known both as itself and as
        its capture. A copy is only known as one, and can be watched.
        """
        captures = [
            tf.identity(capture) if is_source else capture
            for capture, is_source in zip(
                self.captures, self.is_source, strict=True
            )
        ]
        field = self.recorded_with(captures)
        needed, doubtful = (
            [capture for capture, is_chosen in pairs if is_chosen]
            for pairs in (
                zip(captures, mask, strict=True) for mask in self._masks()
            )
        )
        return field, [*needed, *self.variables, *doubtful]

    @functools.cached_property
    def parts(self):
        """Fields that divide the sources between them, in order.

        The gradient to large constants takes as long as everything else. In a
        field of its own, it is left out of a graph that does not use it.
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


class RecordedField:
    """A `TracedField` as operations that a tape can record, also under XLA.

    Args:
        field: `TracedField`.
        captures: List of tensors, values of its captures.
    """

    def __init__(self, field, captures):
        self._field = field
        self._captures = captures

    def __call__(self, t, leaves):
        function = self._field.function
        if inlining.is_needed_for(function.graph):
            inputs = [t, *leaves, *self._captures]
            return inlining.inline(function, inputs)
        return self._field.called_with(self._captures, t, leaves)

    def linearize(self, t, leaves):
        """Returns the `Linear` of the dynamics."""
        return self._field.linearization.recorded(self._captures, t, leaves)


def _is_used(tensor):
    # With a state in half precision the time is cast first.
    return any(
        op.type != "Cast" or _is_used(op.outputs[0])
        for op in tensor.consumers()
    )


class PythonField:
    """Dynamics that Python runs at each evaluation, for debugging.

    A tape records their operations: they have no sources, and only
    `DirectAdjoint` differentiates a solve of them.

    Args:
        ode_fn: Callable `(t, state) -> derivative`.
        state: Nested structure of float tensors.
    """

    sources = variables = ()

    def __init__(self, ode_fn, state):
        self._flat = flat_ode_fn(
            ode_fn, state, derivative_checks.check_derivative
        )

    @classmethod
    def of(cls, flat):
        """Returns the field of a function of time and leaves."""
        field = object.__new__(cls)
        field._flat = flat
        return field

    @property
    def recorded(self):
        """The field itself."""
        return self

    def __call__(self, t, leaves):
        return self._flat(t, leaves)

    def linearize(self, t, leaves):
        """Returns the `Linear` of the dynamics; see `jacobian.linearize`."""
        return linearize(self._flat, t, leaves)


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

    def trace_for(t_shape, state):
        flat = flat_ode_fn(ode_fn, state, derivative_checks.check_derivative)
        return trace_flat(flat, ode_fn, t_shape, state)

    def fails_by_its_clocks():
        return derivative_checks.fails_by_its_clocks(trace_for, t_shape, state)

    try:
        field = trace_for(t_shape, state)
    except (TypeError, ValueError, tf.errors.OpError) as error:
        if fails_by_its_clocks():
            derivative_checks.refuse_clocks(state, error)
        raise
    if derivative_checks.is_ambiguous(t_shape, state) and fails_by_its_clocks():
        derivative_checks.refuse_clocks(state)
    return field


def trace_flat(flat, holder, t_shape, state):
    """Traces a function of time and leaves; returns it as a `TracedField`.

    Args:
        flat: Callable `(t, leaves)` that returns a list of tensors.
        holder: Callable that holds the layers of the function.
        t_shape, state: As in `trace`.

    Raises:
        ValueError: If the function draws noise, or makes variables.
    """
    reads = VariableReads()
    function = _concrete(flat, holder, t_shape, state, reads)
    read = reads.variables = list(function.graph.variables)
    is_doubtful = [reads.is_doubtful(c) for c in function.captured_inputs]
    captures = [reads.value_of(c) for c in function.captured_inputs]
    handles = {id(capture) for capture in captures}
    derivative_checks.refuse_noise(function.graph, read)
    inner = [v for v in read if id(v.handle) in handles]
    # A call reports the function's variables to outer tapes and graphs: leave
    # out those whose values have been read already.
    function.graph.variables = inner
    return TracedField(
        function,
        captures,
        inner,
        is_doubtful=is_doubtful,
        read_variables=read,
    )


def _concrete(flat, holder, t_shape, state, reads):
    leaves = [
        tf.TensorSpec(leaf.shape, solved_dtype(tf.as_dtype(leaf.dtype)))
        for leaf in tf.nest.flatten(state)
    ]
    t = tf.TensorSpec(t_shape, leaves[0].dtype)

    def call(t, leaves):
        graph = tf.compat.v1.get_default_graph()
        with (
            tf.variable_creator_scope(_interrupt),
            reads.moved_out_of(graph),
            within_dynamics(),
        ):
            return _explaining_booleans(flat, t, leaves)

    def trace():
        function = tf.function(call, autograph=False)
        traced = function.get_concrete_function(t, leaves)
        # A variable that the dynamics assign must not be read beforehand.
        return trace() if reads.is_overtaken() else traced

    if not all(layer.built for layer in reachable_layers(holder)):
        _make_weights(flat, t, leaves)
    try:
        return trace()
    except _MakesWeights:
        _make_weights(flat, t, leaves)
    try:
        return trace()
    except _MakesWeights as error:
        raise ValueError(
            "The dynamics must not create layers or variables when they are "
            "called. Create them once, outside the dynamics. Received: "
            f"dynamics that make {error}"
        ) from error


def _explaining_booleans(flat, t, leaves):
    try:
        return flat(t, leaves)
    except tf.errors.OperatorNotAllowedInGraphError as error:
        error.add_note(
            "The dynamics are traced once for each solve, also eagerly: a "
            "Python `if`, `while` or `and` sees no values of `t` and `y`. Use "
            "`tf.where` or `tf.cond`, and `jump_times` for a switch in time."
        )
        raise


class _MakesWeights(Exception):
    """Layers of the dynamics are not built yet."""


def _interrupt(next_creator, **kwargs):
    raise _MakesWeights(kwargs.get("name"))


def _make_weights(flat, t, leaves):
    """Calls dynamics whose layers are not built, in a graph to throw away.

    Variables created in a `tf.function` have no value before it runs.
    """
    with tf_internals.scratch_graph().as_default():
        flat(*tf.nest.map_structure(_placeholder, (t, leaves)))


def _placeholder(spec):
    return tf.compat.v1.placeholder(spec.dtype, spec.shape)
