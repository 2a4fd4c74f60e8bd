"""Events traced with the dynamics: pure functions, captures as inputs."""

import functools
import typing

import ml_dtypes
import tensorflow as tf

from keras_node.common.conversion import as_tensor
from keras_node.common.inner_products import dot
from keras_node.common.state import flat_ode_fn
from keras_node.dynamics import derivative_checks, traced_field
from keras_node.dynamics.traced_transform import TracedTransform


class TracedEvent(typing.NamedTuple):
    """An event of leaves.

    Attributes:
        condition: `TracedField` that returns `[g]`, `(batch,)`.
        reset: `TracedField` that returns leaves; or `None`.
        has_reset: Boolean.
        direction: 1, -1, or 0 for both.
        terminal: Boolean, whether the last of them ends the solve.
        max_events: Integer, the most to record.
    """

    condition: typing.Any
    reset: typing.Any
    has_reset: bool
    direction: int
    terminal: bool
    max_events: int


class Slopes(typing.NamedTuple):
    """Conditions to first order along a solution, float64 `(E, batch)`.

    Attributes:
        values: The conditions.
        rates: Their derivatives by time along the solution.
        sizes: The sizes of the terms that they are made of, to first order.
        epsilons: `(E, 1)`, the rounding of each: the coarsest of its
            own and of the state's.
    """

    values: tf.Tensor
    rates: tf.Tensor
    sizes: tf.Tensor
    epsilons: tf.Tensor

    def are_finite(self, number):
        """Returns where a condition and its derivatives are finite."""
        parts = [self.values[number], self.rates[number], self.sizes[number]]
        return tf.math.is_finite(tf.add_n(parts))

    def frozen(self):
        """Returns the same, without gradient."""
        return Slopes(*map(tf.stop_gradient, self))


class TracedEvents:
    """The events of a solve, to whose sources gradients flow, too.

    Args:
        events: List of `TracedEvent`s.
        slopes: List, for each event the `TracedTransform` of its condition to
            it and its derivatives by time and leaves; `None` (default) to
            trace them.

    Attributes:
        events: As above.
        sources: List of tensors, those of all conditions and resets.
    """

    def __init__(self, events, slopes=None):
        self.events = list(events)
        self._slopes = slopes

    @property
    def fields(self):
        """The traced functions: all conditions, then all resets."""
        conditions = [event.condition for event in self.events]
        resets = [event.reset for event in self.events if event.has_reset]
        return conditions + resets

    def with_fields(self, fields):
        """Returns the events with other traced functions, in that order."""
        fields = list(fields)
        conditions = fields[: len(self.events)]
        resets = iter(fields[len(self.events) :])
        events = [
            event._replace(
                condition=condition,
                reset=next(resets) if event.has_reset else None,
            )
            for event, condition in zip(self.events, conditions, strict=True)
        ]
        return TracedEvents(events, self._slopes)

    def without_fields(self):
        """Returns the events with `None` in place of their functions."""
        nothing = [None] * len(self.fields)
        return TracedEvents(self.with_fields(nothing).events)

    @property
    def options(self):
        """A hashable of all that is not a function."""
        return tuple(
            (e.has_reset, e.direction, e.terminal, e.max_events)
            for e in self.events
        )

    @property
    def sources(self):
        """The sources of all functions."""
        return [source for field in self.fields for source in field.sources]

    @property
    def recorded(self):
        """The events as operations that a tape can record, under XLA, too."""
        return self.with_fields([field.recorded for field in self.fields])

    def with_copies(self):
        """Returns the events with copies of their sources, and these."""
        pairs = [field.with_copies() for field in self.fields]
        fields = [field for field, _ in pairs]
        return self.with_fields(fields), [
            x for _, copies in pairs for x in copies
        ]

    def trace_slopes(self):
        """Traces the derivatives of the conditions, while tapes record."""
        if self._slopes is None:
            self._slopes = [_slope_of(e.condition) for e in self.events]

    @property
    def num_rows(self):
        """The most events of a sample, of which one at most ends it."""
        return num_rows(self.events)

    @property
    def can_reset(self):
        """Whether any event changes the state."""
        return any(event.has_reset for event in self.events)

    def per_event(self, value):
        """Returns a constant `(E, 1)`, the values of a function of events."""
        return tf.constant([[value(event)] for event in self.events])

    def condition(self, number, t, leaves):
        """Returns the condition of an event, float64 `(batch,)`."""
        (value,) = self.events[number].condition(_cast(t, leaves), leaves)
        return tf.cast(value, tf.float64)

    def conditions(self, t, leaves):
        """Returns those of all events, `(E, batch)`."""
        numbers = range(len(self.events))
        return tf.stack([self.condition(n, t, leaves) for n in numbers])

    def slopes(self, t, leaves, f):
        """Returns the `Slopes` along the solution.

        Args:
            t: Float64 `(batch,)`.
            leaves, f: Lists of leaves, the state and its derivative.
        """
        self.trace_slopes()
        values, rates, sizes, epsilons = [], [], [], []
        for slope in self._slopes:
            value, by_time, by_state = slope(_cast(t, leaves), leaves)
            by_time = tf.cast(by_time, tf.float64)
            values.append(tf.cast(value, tf.float64))
            rates.append(by_time + dot(by_state, f, 1))
            sizes.append(
                tf.abs(by_time * t)
                + dot(_absolute(by_state), _absolute(leaves), 1)
            )
            epsilons.append([_coarsest(value, *leaves)])
        return Slopes(
            *map(tf.stack, (values, rates, sizes)),
            tf.constant(epsilons, tf.float64),
        )

    def reset(self, number, t, leaves):
        """Returns the state after an event."""
        return self.events[number].reset(_cast(t, leaves), leaves)


def num_rows(events):
    """Returns the most events of a sample, of which one at most ends it.

    Args:
        events: List of `TracedEvent`s or `keras_node.Event`s.
    """
    count = sum((e.max_events or 1) - e.terminal for e in events)
    return count + any(event.terminal for event in events)


def _cast(t, leaves):
    return tf.cast(t, leaves[0].dtype)


def _slope_of(condition):
    """Returns a callable of `(t, leaves)`, the derivatives of a condition."""
    if isinstance(condition, traced_field.PythonField):
        return functools.partial(_slopes, condition)
    transform = TracedTransform(condition, _slopes)
    return lambda t, leaves: transform(condition.captures, t, leaves)


def _slopes(function, t, leaves):
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch([t, leaves])
        (value,) = function(t, leaves)
    by_time, by_state = tape.gradient(
        value,
        [t, leaves],
        unconnected_gradients=tf.UnconnectedGradients.ZERO,
    )
    return value, by_time, by_state


def _absolute(leaves):
    return [tf.abs(leaf) for leaf in leaves]


def _coarsest(*tensors):
    """Returns the largest rounding of the dtypes of float tensors."""
    dtypes = [x.dtype.as_numpy_dtype for x in tensors]
    return max(float(ml_dtypes.finfo(dtype).eps) for dtype in dtypes)


def trace(events, bind, t_shape, state, is_debugged=False):
    """Traces events; returns `TracedEvents`.

    Args:
        events: List of `keras_node.Event`s.
        bind: Callable from a condition or a reset, and its name, to a function
            of `(t, y)`; `None` if they are such functions.
        t_shape: Shape of the time, `(batch,)`.
        state: Nested structure of float tensors, or of their `TensorSpec`s.
        is_debugged: Whether Python runs them at each evaluation.

    Raises:
        ValueError: If a condition is not one number for each sample, or a
            reset does not match the state.
    """

    bind = bind or (lambda function, name: function)

    def make(function, flat):
        if is_debugged:
            return traced_field.PythonField.of(flat)
        return traced_field.trace_flat(flat, function, t_shape, state)

    found = []
    for event in events:
        condition, reset = bind(event.condition, "condition"), None
        flat = _flat_condition(condition, state)
        if event.reset is not None:
            function = bind(event.reset, "reset")
            reset = make(function, flat_ode_fn(function, state, _check_reset))
        found.append(
            TracedEvent(
                condition=make(condition, flat),
                reset=reset,
                has_reset=reset is not None,
                direction=event.direction or 0,
                terminal=event.terminal,
                max_events=event.max_events or 1,
            )
        )
        if derivative_checks.is_ambiguous(t_shape, state):
            _check_with_odd_batch(flat, condition, state)
    return TracedEvents(found)


class _WrongShape(ValueError):
    """A condition that is not one number for each sample."""


def _check_with_odd_batch(flat, condition, state):
    """Raises if a condition has the right shape by chance alone.

    `y[0]` of a batch of unknown size has, if no other is tried.
    """
    state = derivative_checks.with_odd_batch(state)
    t_shape = tf.nest.flatten(state)[0].shape[:1]
    try:
        traced_field.trace_flat(flat, condition, t_shape, state)
    except _WrongShape:
        raise
    except Exception:  # It may hold tensors of the batch that it is for.
        return


def _flat_condition(condition, structure):
    def flat(t, leaves):
        state = tf.nest.pack_sequence_as(structure, leaves)
        return [_check_condition(condition(t, state), t)]

    return flat


def _check_condition(value, t):
    """Returns a condition as a float tensor `(batch,)`."""
    value = as_tensor(value, "condition", "a float tensor (batch,)")
    if value.shape.rank == 2 and value.shape[1] == 1:
        value = value[:, 0]
    if not value.dtype.is_floating or not (
        value.shape.rank == 1 and value.shape.is_compatible_with(t.shape)
    ):
        raise _WrongShape(
            "The `condition` of an event must return a float for each sample, "
            "of shape (batch,); write y[:, 0], not y[0]. Received: a condition "
            f"of shape {value.shape} and dtype {value.dtype.name}, where "
            f"(batch,) = {tuple(t.shape)}"
        )
    return value


def _check_reset(value, state):
    try:
        return derivative_checks.check_derivative(value, state)
    except ValueError as error:
        raise ValueError(
            "The `reset` of an event must return a state of the structure, "
            "shapes and dtypes of the one that it gets. "
            f"Received: reset={value}, state={state}"
        ) from error
