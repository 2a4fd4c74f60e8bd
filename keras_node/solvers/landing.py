"""The step through an event: its exact time, and the state behind it."""

import typing

import tensorflow as tf

from keras_node.solvers import clocks


class Landed(typing.NamedTuple):
    """The result of `land`; per clock.

    Attributes:
        time: Float64, the time `t*` of the event.
        y: List of leaves, the state with which the solve goes on, or ends.
        behind: List of leaves, the state at `t*` behind a reset.
        f: List of leaves, its derivative; about that of `y`.
        slopes: `Slopes` of the conditions at the end of the step, before it;
            without gradient.
    """

    time: tf.Tensor
    y: list
    behind: list
    f: list
    slopes: typing.NamedTuple


def land(ode_fn, events, reached, y):
    """Takes the solution from a step's end to the event, and through it.

    The step ends at the zero `t` of the condition `g` on the dense output. With
    `f = f(t, y)` and the rate `g' = dg/dt + dg/dy f`, the event is at

        t* = t - g / g'
        y* = y + (t* - t) f

    which also gives the derivatives by the implicit function theorem, `g'`
    being held. A reset `r` continues with the state that reaches `r(t*, y*)` at
    `t*`, taken back to `t`, where the next step starts:

        y+ = r(t*, y*) - (t* - t) f(t*, r(t*, y*))

    Args:
        ode_fn: Callable `(t, leaves) -> leaves`.
        events: `TracedEvents`.
        reached: `Reached`, in at least one clock an event.
        y: List of leaves, the state at the end of the step.

    Returns:
        `Landed`.
    """
    t, index, ends = reached.t, reached.index, reached.ends
    # At a jump the dynamics are those before it.
    before = tf.clip_by_value(t, *reached.interval)
    f = ode_fn(tf.cast(before, y[0].dtype), y)
    slopes = events.slopes(t, y, f).frozen()
    lag = tf.zeros_like(t)
    for number, rate in enumerate(tf.unstack(slopes.rates)):
        is_it = tf.equal(index, number)
        is_safe = is_it | slopes.are_finite(number)
        lag = tf.where(
            is_it, _lag(events, number, (is_it, is_safe), t, y, rate), lag
        )
    at_event = clocks.add(y, clocks.scale(lag, f))
    y_next, behind = clocks.select(ends, at_event, y), at_event
    for number, event in enumerate(events.events):
        if not event.has_reset:
            continue
        is_it = tf.equal(index, number) & ~ends
        after, slope = _reset(
            ode_fn, events, number, is_it, reached, t + lag, at_event
        )
        back = clocks.add(after, clocks.scale(-lag, slope))
        y_next = clocks.select(is_it, back, y_next)
        behind = clocks.select(is_it, after, behind)
        f = clocks.select(is_it, slope, f)
    return Landed(t + lag, y_next, behind, f, slopes)


def _lag(events, number, masks, t, y, rate):
    """Returns how long after `t` the clocks given reach an event.

    Args:
        masks: Which clocks do, and in which the condition may be evaluated.
    """
    is_it, is_safe = masks

    def happen():
        value = events.condition(number, *_at_safe(is_safe, is_it, t, y))
        rates = tf.where(is_it, rate, tf.ones_like(rate))
        return -tf.math.divide_no_nan(value, rates)

    return tf.cond(tf.reduce_any(is_it), happen, lambda: tf.zeros_like(t))


def _at_safe(is_safe, is_it, t, y):
    """Returns times and states, in unsafe clocks those of one that fires.

    A condition or a reset may be undefined at the states of other clocks, and 0
    times its gradient there NaN.
    """
    one = tf.argmax(tf.cast(is_it, tf.int32))
    time = tf.where(is_safe, t, t[one])
    return time, clocks.select(is_safe, y, [leaf[one][None] for leaf in y])


def _reset(ode_fn, events, number, is_it, reached, t, y):
    """Returns the state behind a reset, and its derivative.

    At a jump that is the derivative before it, as that of the step.
    """

    def happen():
        time, own = _at_safe(is_it, is_it, t, y)
        behind = events.reset(number, time, own)
        before = tf.clip_by_value(time, *reached.interval)
        return behind, ode_fn(tf.cast(before, behind[0].dtype), behind)

    def skip():
        return y, [tf.zeros_like(leaf) for leaf in y]

    return tf.cond(tf.reduce_any(is_it), happen, skip)


def cross(ode_fn, events, reached, y):
    """Lets the events happen that a recorded step has reached, differentiably.

    Args:
        ode_fn, events: As in `land`.
        reached: `Reached`.
        y: List of leaves, the state at the end of the step.

    Returns:
        The state, and the times of the events, unspecified in the clocks
        without one.
    """

    def happen():
        landed = land(ode_fn, events, reached, y)
        return landed.y, landed.time

    has_event = tf.reduce_any(reached.is_row)
    return tf.cond(has_event, happen, lambda: (y, reached.t))


def num_evaluations(events):
    """Returns how often `land` evaluates the dynamics, at most."""
    return 1 + sum(event.has_reset for event in events.events)
