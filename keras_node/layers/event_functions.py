"""The conditions and resets of a layer's events, as functions it holds."""

import keras
import tensorflow as tf

from keras_node.dynamics import traced_events
from keras_node.dynamics.vector_field import VectorField
from keras_node.events import Event, as_list, have_rows


class EventFunctions:
    """The events of one layer.

    Args:
        events: `Event`, list of them, or `None`.
        owner: Keras layer that solves with them.

    Attributes:
        events: List of `Event`s.
    """

    def __init__(self, events, owner):
        self.events = as_list(events)
        self._pairs = [
            (
                VectorField(event.condition, owner, "condition"),
                None
                if event.reset is None
                else VectorField(event.reset, owner, "reset"),
            )
            for event in self.events
        ]

    @property
    def layers(self):
        """The functions that are Keras layers, for `owner` to track."""
        functions = [field.dynamics for field in self._fields]
        return [f for f in functions if isinstance(f, keras.layers.Layer)]

    @property
    def _fields(self):
        fields = [field for pair in self._pairs for field in pair]
        return [field for field in fields if field is not None]

    @property
    def rows(self):
        """The shape of the times of a sample: `()`, or `(max_events,)`."""
        if not have_rows(self.events):
            return ()
        return (traced_events.num_rows(self.events),)

    def build(self, y):
        """Creates the weights, and checks the functions.

        Args:
            y: `KerasTensor`, or a nested structure of them.

        Raises:
            ValueError: If a condition is not one number for each sample, a
                reset does not match the state, or a layer is refused.
        """
        if not self.events:
            return
        for field in self._fields:
            field.make_weights((None,), y)
            field.refuse_stateful_layers()
        specs = tf.nest.map_structure(
            lambda leaf: tf.TensorSpec(leaf.shape, leaf.dtype), y
        )
        bound = self._bound(training=None)
        traced = traced_events.trace(bound, None, (None,), specs)
        pairs = [(e.condition, e.reset) for e in traced.events]
        for fields, found in zip(self._pairs, pairs, strict=True):
            for field, function in zip(fields, found, strict=True):
                if field is not None:
                    field.note(function)
                    field.refuse_stateful_layers()
                    field.warn_of_untracked()

    def _bound(self, training):
        """Returns the events with functions `(t, y)`."""
        return [
            _with_functions(
                event,
                condition.bind(training),
                None if reset is None else reset.bind(training),
            )
            for event, (condition, reset) in zip(
                self.events, self._pairs, strict=True
            )
        ]

    def held_layers(self):
        """Returns the layers that functions hold, for `owner` to track."""
        return [layer for f in self._fields for layer in f.held_layers()]

    def extended(self, training=None):
        """Returns the events for a state `(y, integrals)`."""
        return [_extended(event) for event in self._bound(training)]


def _extended(event):
    reset = None
    if event.reset is not None:
        # The integrals are continuous.
        def reset(t, state):
            return event.reset(t, state[0]), state[1]

    return _with_functions(
        event, lambda t, state: event.condition(t, state[0]), reset
    )


def _with_functions(event, condition, reset):
    return Event(
        condition, event.direction, event.terminal, reset, event.max_events
    )
