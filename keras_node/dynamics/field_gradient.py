"""The gradient of one evaluation of the dynamics, from what it keeps."""

import typing

import tensorflow as tf

from keras_node.common import tf_internals
from keras_node.dynamics.gradient_sources import is_differentiable
from keras_node.dynamics.graph_dependence import (
    Dependents,
    known_integers,
    original,
)


class _Sources:
    """Cotangents of the sources of a field, those connected or all."""

    def connected_zeros(self):
        """Returns zero cotangents of the sources that are connected."""
        pairs = zip(self.field.sources, self.is_connected, strict=True)
        return [tf.zeros_like(x) for x, is_connected in pairs if is_connected]

    def all_sources(self, bars):
        """Puts zeros where sources are not connected."""
        bars = iter(bars)
        return [
            next(bars) if is_connected else tf.zeros_like(source)
            for source, is_connected in zip(
                self.field.sources, self.is_connected, strict=True
            )
        ]


class FieldGradient(_Sources):
    """The dynamics, evaluated now and differentiated later.

    `evaluate` returns, besides the derivative, the tensors that its gradient
    needs: the activations. `pull_back` computes the gradient from them, and
    evaluates nothing. What is equal in all evaluations is not kept: weights,
    constants, and what is computed from them or from shapes. Integers that are
    known now, such as axes, are constants of the gradient: XLA compiles a call
    again for each value of what might be one.

    Args:
        field: `TracedField`.
        needs_time: Whether a gradient to the time is asked for.

    Attributes:
        field: As above.
        is_connected: List of booleans, for each source of the field whether
            the dynamics depend on it.
        num_evaluations: How often `pull_back` evaluates the dynamics.
        kept_specs: List of `TensorSpec`s, the tensors that `evaluate` keeps.
        can_store: Whether they may be stored in arrays.
    """

    num_evaluations = 0

    def __init__(self, field, needs_time):
        self.field = field
        function = field.function
        self._inputs = function.graph.inputs
        self._num_leaves = field.num_leaves
        self._needs_time = needs_time and field.uses_time
        inputs = self._inputs[not self._needs_time : 1 + self._num_leaves]
        inputs += self._source_inputs()
        # TensorFlow's own gradients append to the outputs of the graph.
        outputs = function.graph.outputs[: self._num_leaves]
        self._pullback, self._found = tf_internals.pullback_of(
            function, outputs, inputs
        )
        self.is_connected = self._found[self._needs_time + self._num_leaves :]
        self._needs, self._groups = self._sorted_needs(function.graph)
        kept = self._groups["kept"]
        self._constants = list(map(known_integers, self._groups["constants"]))
        self._evaluate = tf_internals.FlatFunction(function, [*outputs, *kept])
        self._compute = {
            name: tf_internals.FlatFunction(
                function, self._groups[name], has_effects=False
            )
            for name in ("shared", "shaped")
            if self._groups[name]
        }
        self.kept_specs = [tf.TensorSpec(x.shape, x.dtype) for x in kept]
        # What XLA uses as a shape must not come from an array.
        unstorable = {tf.variant, tf.resource}
        if tf_internals.in_xla():
            unstorable |= {tf.int32, tf.int64}
        self.can_store = all(
            x.dtype not in unstorable and x.shape.rank is not None for x in kept
        )

    def _source_inputs(self):
        """Returns the inputs of the graph that are sources of the field."""
        field, count = self.field, 1 + self._num_leaves
        captured = list(zip(field.captures, self._inputs[count:], strict=True))
        handles = {id(outer): inner for outer, inner in captured}
        return [
            *[
                inner
                for (_, inner), is_source in zip(
                    captured, field.is_source, strict=True
                )
                if is_source
            ],
            *[handles[id(variable.handle)] for variable in field.variables],
        ]

    def _sorted_needs(self, graph):
        """Sorts what the gradient needs by where a backward pass finds it.

        Returns:
            `(needs, groups)`: for each need the name of its group and its
            place there, and the groups.
        """
        count = 1 + self._num_leaves
        groups = {
            "kept": [],
            "shared": [],
            "shaped": [],
            "captured": self._inputs[count:],
            "outside": [],
            "constants": [],
        }
        varying = Dependents(graph, map(id, self._inputs[:count])).values
        # What depends on none of these follows from shapes and integers.
        valued = [x for x in self._inputs if not x.dtype.is_integer]
        valued = Dependents(graph, map(id, valued)).values
        needs = []
        for tensor in map(original, self._pullback.captured_inputs):
            if not tf.is_symbolic_tensor(tensor) or tensor.graph is not graph:
                name = "outside"
            elif known_integers(tensor) is not None:
                name = "constants"
            elif any(tensor is x for x in groups["captured"]):
                name = "captured"
            elif id(tensor) in varying:
                name = "kept"
            else:
                name = "shared" if id(tensor) in valued else "shaped"
            places = [id(x) for x in groups[name]]
            if id(tensor) not in places:
                groups[name].append(tensor)
                places.append(id(tensor))
            needs.append((name, places.index(id(tensor))))
        return needs, groups

    def evaluate(self, t, leaves):
        """Returns `(derivative, kept)`, two lists of tensors."""
        outputs = list(self._evaluate(t, *leaves, *self.field.captures))
        return outputs[: len(leaves)], outputs[len(leaves) :]

    def shared(self, t, leaves):
        """Returns what all evaluations share, from any time and state.

        XLA takes what decides a shape for a constant, with all arguments of
        the call that it comes from: there these are zeros, of their shapes.
        """
        values, captures = [t, *leaves], self.field.captures
        alike = captures
        if tf_internals.in_xla():
            values, alike = _zeros_like(values), _zeros_like(captures)
        arguments = {"shared": captures, "shaped": alike}
        return {
            name: compute(*values, *arguments[name])
            for name, compute in self._compute.items()
        }

    def pull_back(self, kept, shared, cotangents):
        """Returns the `Cotangents` of an evaluation.

        Args:
            kept: What the evaluation kept.
            shared: What `shared` returned.
            cotangents: List of tensors, those of the derivative.
        """
        groups = self._groups | {
            **shared,
            "kept": kept,
            "captured": self.field.captures,
            "constants": [tf.constant(x) for x in self._constants],
        }
        needs = [groups[name][place] for name, place in self._needs]
        with tf_internals.building_alone():
            self._pullback.set_external_captures(needs)
            found = iter(self._pullback(*cotangents))
        bars = [next(found) if is_found else None for is_found in self._found]
        t = bars.pop(0) if self._needs_time else None
        leaves = [
            tf.zeros_like(cotangent) if bar is None else bar
            for bar, cotangent in zip(bars, cotangents, strict=False)
        ]
        sources = [bar for bar in bars[self._num_leaves :] if bar is not None]
        return Cotangents(t, leaves, sources)


class ReevaluatedGradient(_Sources):
    """The dynamics, differentiated by evaluating them again under a tape.

    For dynamics whose gradient cannot be split from them; see `FieldGradient`.
    """

    num_evaluations = 1
    can_store = True

    def __init__(self, field, needs_time):
        self.field = field
        self._needs_time = needs_time and field.uses_time
        inputs = field.function.graph.inputs[: 1 + field.num_leaves]
        self.kept_specs = [tf.TensorSpec(x.shape, x.dtype) for x in inputs]
        self.is_connected = [True] * len(field.sources)

    def evaluate(self, t, leaves):
        """Returns `(derivative, kept)`, two lists of tensors."""
        return self.field(t, leaves), [t, *leaves]

    def shared(self, t, leaves):
        """Returns nothing."""
        return {}

    def pull_back(self, kept, shared, cotangents):
        """Returns the `Cotangents` of an evaluation."""
        t, *leaves = [tf.identity(x) for x in kept]
        field, sources = self.field.with_copies()
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([t, leaves, sources])
            derivative = field(t, leaves)
        gradients = tape.gradient(
            derivative,
            [t, leaves, sources],
            output_gradients=cotangents,
            unconnected_gradients=tf.UnconnectedGradients.ZERO,
        )
        t_bar, leaves, sources = gradients
        sources = [tf.convert_to_tensor(bar) for bar in sources]
        return Cotangents(t_bar if self._needs_time else None, leaves, sources)


def _zeros_like(tensors):
    """Returns zeros for floats, of their shapes alone; others as they are."""
    return [
        tf.zeros(tf.shape(x), x.dtype) if is_differentiable(x) else x
        for x in tensors
    ]


def gradient_of(field, needs_time):
    """Returns the `FieldGradient`, or what replaces it.

    It is built with the solve, for a gradient that may never be asked for:
    where there is none, the error is raised when it is.
    """
    try:
        with tf_internals.building_alone():
            return FieldGradient(field, needs_time)
    except (LookupError, NotImplementedError, TypeError, ValueError):
        return ReevaluatedGradient(field, needs_time)


class Cotangents(typing.NamedTuple):
    """The cotangents of an evaluation's inputs.

    Attributes:
        t: Tensor, that of the time; or `None`.
        leaves: List, those of the state.
        sources: List, those of the sources that are connected.
    """

    t: typing.Any
    leaves: list
    sources: list
