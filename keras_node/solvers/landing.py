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
        rates: Float64 `(E, batch)`, those of the conditions before it.
    """

    time: tf.Tensor
    y: list
    behind: list
    f: list
    rates: tf.Tensor


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
    values = events.conditions(t, y)
    rates = tf.stop_gradient(events.rates(t, y, f))
    fires = tf.equal(index, tf.range(tf.shape(values)[0])[:, None])
    lags = -tf.math.divide_no_nan(values, rates)
    lag = tf.reduce_sum(tf.where(fires, lags, 0.0), axis=0)
    at_event = clocks.add(y, clocks.scale(lag, f))
    y_next, behind = clocks.select(ends, at_event, y), at_event
    for number, event in enumerate(events.events):
        if not event.has_reset:
            continue
        is_it = tf.equal(index, number) & ~ends
        after, slope = _reset(ode_fn, events, number, is_it, t + lag, at_event)
        back = clocks.add(after, clocks.scale(-lag, slope))
        y_next = clocks.select(is_it, back, y_next)
        behind = clocks.select(is_it, after, behind)
        f = clocks.select(is_it, slope, f)
    return Landed(t + lag, y_next, behind, f, rates)


def _reset(ode_fn, events, number, is_it, t, y):
    """Returns the state behind a reset, and its derivative.

    A reset may be undefined at the states of other clocks, and 0 times its
    gradient there NaN: it gets that of one of its own in their place.
    """

    def happen():
        one = tf.argmax(tf.cast(is_it, tf.int32))
        own = clocks.select(is_it, y, [leaf[one][None] for leaf in y])
        time = tf.where(is_it, t, t[one])
        behind = events.reset(number, time, own)
        return behind, ode_fn(tf.cast(time, behind[0].dtype), behind)

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
