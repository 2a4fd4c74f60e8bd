"""Events: where a solve ends, takes note, or changes the state."""

import keras

from keras_node.common.arguments import as_boolean, is_positive_integer
from keras_node.saving import configs


@keras.saving.register_keras_serializable(package="keras_node")
class Event:
    """A zero of a function of time and state, at which something happens.

    A solve with the event `g` looks for the first change of the sign of
    `g(t, y(t))` along the solution, in each sample on its own. At a zero `t*`
    a terminal event ends the solve of the sample, and any other records `t*`;
    one with a `reset` changes the state to `y+ = r(t*, y(t*))` and goes on.

    Signs are compared at the ends of the steps and at seven times within each,
    on the dense output; the zero is bracketed there, the step is taken again to
    end at it, and a Newton step removes what the dense output leaves. Gradients
    are those of the implicit function theorem,

        dt* = -(dg/dtheta + dg/dy dy/dtheta) / (dg/dt + dg/dy f)

    and flow to the initial state, the times, the weights of the dynamics, and
    those of `condition` and `reset`.

    A sample that starts on the surface `g = 0` does not fire there: the sign
    begins as that of `dg/dt` along the solution. Nor does an event that has
    just fired, or whose reset leaves the state on the surface. Two zeros closer
    than an eighth of a step, or a zero without a change of sign, are not seen:
    bound the step by requesting more times, or tighten the tolerances. Where
    the solution is found to touch the surface, or `g` jumps, there is no
    gradient: the sample fails with status -4. `g` may be undefined behind a
    zero; one that becomes NaN before fails with status -3. Of events at one
    time, that which comes first in the list comes first, and may undo the
    others by its reset.

    Args:
        condition: Callable `g(t, y)`, or a Keras layer of `(t, y)` or of `y`;
            returns a number for each sample, `(batch,)` or `(batch, 1)`. `t`
            has the shape `(batch,)`.
        direction: `None` (default) for every change of sign; 1 for a rising
            `g`, from negative to positive along the solve; -1 for a falling
            one.
        terminal: Boolean, whether the solve ends there. Default `True`.
        reset: Callable `r(t, y)`, or a Keras layer, that returns the state
            after an event that does not end the solve. Default `None`.
        max_events: Positive integer, the most zeros to record in a sample. A
            terminal event ends the solve at this one; default `None`, the
            first. Required where the event is not terminal: later zeros are
            not recorded, and a sample that needs more resets fails with status
            -5.

    Raises:
        ValueError: If an argument is out of its range, or they contradict each
            other.
        TypeError: If `condition` or `reset` is not callable.

    Example:
    >>> falls = lambda t, y: tf.stack([y[:, 1], -8.0 * tf.ones_like(t)], 1)
    >>> ground = keras_node.Event(lambda t, y: y[:, 0], direction=-1)
    >>> y0 = tf.constant([[10.0, 0.0]])
    >>> results = keras_node.odeint(falls, y0, (0.0, 9.0), events=ground)
    >>> float(results.event_times[0])  # sqrt(2 * 10 / 8)
    1.58...

    Reference:
    - [Chen, Amos & Nickel, 2021](https://arxiv.org/abs/2011.03902)
    """

    citations = ("chen2021",)

    def __init__(
        self,
        condition,
        direction=None,
        terminal=True,
        reset=None,
        max_events=None,
    ):
        _require_callable(condition, "condition")
        if reset is not None:
            _require_callable(reset, "reset")
        if direction not in (None, 1, -1):
            raise ValueError(
                "`direction` must be `None`, 1 (rising) or -1 (falling). "
                f"Received: direction={direction!r}"
            )
        self.condition = condition
        self.direction = None if direction is None else int(direction)
        self.terminal = as_boolean(terminal, "terminal")
        self.reset = reset
        self.max_events = max_events
        if self.ends_at_once and reset is None:
            return
        if not is_positive_integer(max_events):
            raise ValueError(
                "`max_events` must be a positive integer, the most zeros to "
                "record; an event that is not terminal, or has a `reset`, "
                "needs one. "
                f"Received: terminal={terminal}, max_events={max_events!r}"
            )
        self.max_events = int(max_events)

    @property
    def ends_at_once(self):
        """Whether the first zero ends the solve."""
        return self.terminal and self.max_events is None

    def get_config(self):
        """Returns the arguments that make an equal event."""
        reset = self.reset
        if reset is not None:
            reset = configs.serialize_dynamics(reset, "reset")
        return {
            "condition": configs.serialize_dynamics(
                self.condition, "condition"
            ),
            "direction": self.direction,
            "terminal": self.terminal,
            "reset": reset,
            "max_events": self.max_events,
        }

    @classmethod
    def from_config(cls, config):
        """Creates an event from the result of `get_config`."""
        return configs.from_config(cls, config, condition=_read, reset=_read)


def have_rows(events):
    """Whether a sample may have several of the events."""
    return not all(event.ends_at_once for event in events)


def as_list(events):
    """Returns events as a list, `[]` for `None`.

    Raises:
        TypeError: If any is not an `Event`.
    """
    if events is None:
        return []
    events = list(events) if isinstance(events, (list, tuple)) else [events]
    for event in events:
        if not isinstance(event, Event):
            raise TypeError(
                "`events` must be a `keras_node.Event` or a list of them. "
                f"Received: events={events!r}"
            )
    return events


def _read(config):
    return None if config is None else configs.deserialize(config)


def _require_callable(function, name):
    if not callable(function) or isinstance(function, type):
        raise TypeError(
            f"`{name}` must be a callable of (t, y) or a Keras layer. "
            f"Received: {name}={function!r}"
        )
