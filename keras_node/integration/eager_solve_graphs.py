"""Cache of graphs for eager solves."""

import collections
import threading
import types
import typing

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from keras_node.adjoints import (
    AutoAdjoint,
    BacksolveAdjoint,
    CheckpointAdjoint,
    DirectAdjoint,
)
from keras_node.common import tf_internals
from keras_node.dynamics.traced_field import PythonField, TracedField
from keras_node.integration.field_signature import signature_of
from keras_node.saving.identifiers import Configurable
from keras_node.solvers.solution import Solution

# The most graphs to keep: one for each of the solves that alternate.
_MAX_KEPT = 16
# Dtypes of captures that a graph holds and does not take as arguments.
_HANDLES = (tf.resource, tf.variant)
# The adjoints of the package, which keep nothing of a solve.
ADJOINTS = (
    AutoAdjoint,
    BacksolveAdjoint,
    CheckpointAdjoint,
    DirectAdjoint,
)


def solve(adjoint, problem):
    """Does what `adjoint.solve(problem)` does; eagerly with a graph.

    The graph is kept under the signature of the dynamics as traced for this
    solve, so it is never stale. A graph with a gradient takes ten times as
    long to make as a short solve without one: it is made when the same solve
    comes for the second time. Under several tapes, or a persistent one, no
    graph is made.

    Args:
        adjoint: `Adjoint`.
        problem: `Problem`.

    Returns:
        `Solution`, without steps and record if it comes from a graph.
    """
    # A replica's metrics are updated by its strategy, not within a graph.
    is_graph = not tf.executing_eagerly() or tf.distribute.has_strategy()
    if is_graph or isinstance(problem.field, PythonField):
        return adjoint.solve(problem)
    if type(adjoint) not in ADJOINTS:
        return adjoint.solve(problem)
    inputs = problem.inputs
    if tf_internals.may_want_higher_derivatives(inputs):
        # TensorFlow would trace them all, whether asked for or not.
        return adjoint.solve(problem)
    key = _key(adjoint, problem)
    if key is None or (tf_internals.is_watched(inputs) and not _kept.note(key)):
        return adjoint.solve(problem)
    function = _kept.get(key, lambda: _graph_of(adjoint, problem))
    states, diagnostics, internal, dense, events = function(
        problem.moments, problem.y, _values(_captures(problem))
    )
    return Solution(states, diagnostics, internal, dense=dense, events=events)


class _Kept:
    """A bounded cache of the graphs of the last solves."""

    def __init__(self):
        self._functions = collections.OrderedDict()
        self._lock = threading.RLock()

    def note(self, key):
        """Notes a key; returns whether it was known before."""
        with self._lock:
            is_known = key in self._functions
            self._put(key, self._functions.get(key))
        return is_known

    def get(self, key, make):
        """Returns the function of a key, made if there is none."""
        with self._lock:
            function = self._functions.get(key) or make()
            self._put(key, function)
        return function

    def _put(self, key, function):
        self._functions[key] = function
        self._functions.move_to_end(key)
        while len(self._functions) > _MAX_KEPT:
            self._functions.popitem(last=False)


_kept = _Kept()


def _graph_of(adjoint, problem):
    """Returns the concrete function of a solve, with its gradient."""
    blanks = [_Blank.of(field) for field in _fields(problem)]
    specs = tf.nest.map_structure(
        lambda tensor: tf.TensorSpec(tensor.shape, tensor.dtype),
        [problem.moments, problem.y, _values(_captures(problem))],
    )
    events = problem.events and problem.events.without_fields()
    # The caller may change these objects before a gradient is traced.
    adjoint = _copy_of(adjoint)
    problem = problem._replace(
        solver=_copy_of(problem.solver),
        field=None,
        events=None,
        times=None,
        jumps=None,
        y=None,
        is_whole_graph=True,
    )

    def run(moments, y, values):
        values = iter(values)
        field, *others = [blank.filled(values) for blank in blanks]
        whole = problem.with_moments(moments)._replace(
            field=field, y=y, events=events and events.with_fields(others)
        )
        result = adjoint.solve(whole)
        return (
            result.states,
            result.diagnostics,
            result.internal,
            result.dense,
            result.events,
        )

    graph = tf.function(run, autograph=False)
    return graph.get_concrete_function(*specs)


class _Blank(typing.NamedTuple):
    """A traced function without the tensors of a solve, to keep none alive."""

    function: typing.Any
    handles: list
    variables: list
    is_source: list

    @classmethod
    def of(cls, field):
        handles = [c if c.dtype in _HANDLES else None for c in field.captures]
        return cls(field.function, handles, field.variables, field.is_source)

    def filled(self, values):
        """Returns the `TracedField` with the next of an iterator's tensors."""
        captures = [next(values) if h is None else h for h in self.handles]
        return TracedField(
            self.function, captures, self.variables, self.is_source
        )


def _copy_of(options):
    """Returns an adjoint or solver with the same attributes.

    A tolerance that is a variable stays one; `copy.copy` would read its value.
    """
    copy = object.__new__(type(options))
    for name, value in vars(options).items():
        is_nested = isinstance(value, (tfp.math.ode.Solver, Configurable))
        copy.__dict__[name] = _copy_of(value) if is_nested else value
    return copy


def _fields(problem):
    """Returns the traced functions: dynamics, conditions, resets."""
    return [problem.field, *(problem.events.fields if problem.events else [])]


def _captures(problem):
    return [c for field in _fields(problem) for c in field.captures]


def _values(captures):
    return [c for c in captures if c.dtype not in _HANDLES]


def _key(adjoint, problem):
    """Returns all that a graph depends on; `None` if that is not known."""
    fields = _fields(problem)
    signatures = tuple(signature_of(field.function) for field in fields)
    if None in signatures:
        return None
    captures = _captures(problem)
    tensors = [*problem.moments, *problem.y, *captures]
    specs = tuple((tuple(x.shape), x.dtype) for x in tensors)
    handles = [id(c) for c in captures if c.dtype in _HANDLES]
    return (
        signatures,
        specs,
        tuple(handles),
        tuple(tuple(field.is_source) for field in fields),
        problem.events and problem.events.options,
        len(problem.moments),
        problem.keeps_dense,
        problem.times_vary,
        problem.num_controlled,
        _identity(adjoint),
        _identity(problem.solver),
        _identity([problem.on_backward, problem.on_drift]),
    )


def _identity(value):
    """Returns a hashable that is equal for equal options."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        return tuple(_identity(item) for item in value)
    if isinstance(value, dict):
        return tuple(
            (name, _identity(item))
            for name, item in sorted(value.items())
            # An option of tfp's gradient, which is not used here.
            if name != "_make_adjoint_solver_fn"
        )
    if isinstance(value, (tfp.math.ode.Solver, Configurable)):
        return type(value), _identity(vars(value))
    if isinstance(value, types.MethodType):
        return value.__func__, _Same(value.__self__)
    return _Same(value)


class _Same:
    """A hashable that equals only itself, and keeps its object alive."""

    def __init__(self, value):
        self._value = value

    def __eq__(self, other):
        return isinstance(other, _Same) and self._value is other._value

    def __hash__(self):
        return id(self._value)
