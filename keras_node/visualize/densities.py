"""Plots of densities in the plane, at times between base and data."""

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from keras_node.flows.bijector_kwargs import call_options
from keras_node.flows.cnf_bijector import CNFBijector
from keras_node.flows.normalizing_flow import NormalizingFlow
from keras_node.visualize import style


def density(
    flow,
    time=None,
    x_limits=(-4.0, 4.0),
    y_limits=(-4.0, 4.0),
    num=100,
    condition=None,
    ax=None,
):
    """Draws the density of a flow in the plane, at one of its times.

    Args:
        flow: `NormalizingFlow` of two numbers, or a
            `tfd.TransformedDistribution`. With a `time`, its bijector must be
            a `CNFBijector`.
        time: Float between the times of the `CNFBijector`; at the first, the
            density is that of the base. Default `None`, that of the flow.
        x_limits: Tuple of two floats. Default `(-4.0, 4.0)`.
        y_limits: Tuple of two floats. Default `(-4.0, 4.0)`.
        num: Positive integer, cells along each side. Default 100.
        condition: Float array `(features,)`, if the density has one.
        ax: `matplotlib.axes.Axes`, or `None` (default) for a new figure.

    Returns:
        The `Axes`.

    Raises:
        TypeError: If `flow` is none of these.
        ValueError: If it is not of two numbers, or has no such `time`.

    Example:
    >>> flow = tfp.distributions.TransformedDistribution(
    ...     tfp.distributions.MultivariateNormalDiag(tf.zeros(2)),
    ...     keras_node.CNFBijector(lambda t, y: y),
    ... )
    >>> ax = keras_node.visualize.density(flow, time=0.5)
    """
    limits = x_limits, y_limits
    values = _values(flow, time, *limits, num, condition)
    ax = style.axes(ax, figsize=(4.0, 4.0))
    _draw(ax, values, time, *limits, values.max())
    return ax


def densities(
    flow,
    times,
    x_limits=(-4.0, 4.0),
    y_limits=(-4.0, 4.0),
    num=100,
    condition=None,
):
    """Draws the density of a flow at several times, side by side.

    All share one colour scale.

    Args:
        flow: As in `density`.
        times: List of floats, as `time` there.
        x_limits: As there.
        y_limits: As there.
        num: As there.
        condition: As there.

    Returns:
        Array of `Axes`, `(len(times),)`.

    Raises:
        TypeError: As there.
        ValueError: As there.
    """
    limits = x_limits, y_limits
    values = [_values(flow, time, *limits, num, condition) for time in times]
    highest = max(value.max() for value in values)
    axes = style.new_axes(len(times), figsize=(2.2 * len(times), 2.9))
    for ax, value, time in zip(axes, values, times, strict=True):
        _draw(ax, value, time, *limits, highest)
        ax.label_outer()
    return axes


def _values(flow, time, x_limits, y_limits, num, condition):
    """Returns the density at the centres of cells, `(num, num)`, y first."""
    base, bijector = _base_and_bijector(flow)
    if time is not None:
        bijector = _bijector_until(bijector, time)
    _, _, points = style.grid(x_limits, y_limits, num)
    points = tf.constant(points, base.dtype)
    if bijector is None:
        return np.exp(base.log_prob(points)).reshape(num, num)
    if condition is not None:
        condition = tf.cast(condition, base.dtype)
    options = call_options(bijector, condition, training=False)
    log_prob = base.log_prob(bijector.inverse(points, **options))
    log_prob += bijector.inverse_log_det_jacobian(points, 1, **options)
    return np.exp(log_prob).reshape(num, num)


def _base_and_bijector(flow):
    """Returns the base and the bijector of a flow."""
    is_flow = isinstance(flow, NormalizingFlow)
    distribution = flow.distribution if is_flow else flow
    is_distribution = isinstance(distribution, tfp.distributions.Distribution)
    # `tfd.TransformedDistribution(...)` makes objects of a private class.
    if not is_distribution or not hasattr(distribution, "bijector"):
        raise TypeError(
            "`flow` must be a `NormalizingFlow` or a "
            "`tfd.TransformedDistribution`. "
            f"Received: flow={flow!r} of type {type(flow).__name__}"
        )
    if distribution.event_shape != [2] or distribution.batch_shape != []:
        raise ValueError(
            "`flow` must be one density of two numbers. Received: flow with "
            f"event_shape={distribution.event_shape}, "
            f"batch_shape={distribution.batch_shape}"
        )
    return distribution.distribution, distribution.bijector


def _bijector_until(bijector, time):
    """Returns the bijector from the start to a time, `None` at the start."""
    _check_time(bijector, time)
    start = bijector.times[0]
    if time == start:
        return None
    return CNFBijector(
        bijector.dynamics,
        times=(start, time),
        solver=bijector.solver,
        trace=bijector.evaluation_trace,
    )


def _check_time(bijector, time):
    if not isinstance(bijector, CNFBijector):
        raise ValueError(
            "A `time` needs a flow whose bijector is a `CNFBijector`; others "
            "have no times in between. "
            f"Received: time={time}, bijector={bijector!r}"
        )
    first, last = bijector.times[0], bijector.times[-1]
    if not min(first, last) <= time <= max(first, last):
        raise ValueError(
            f"`time` must lie between {first:g} and {last:g}, the times of "
            f"the `CNFBijector`. Received: time={time}"
        )


def _draw(ax, values, time, x_limits, y_limits, highest):
    ax.imshow(
        values,
        origin="lower",
        extent=(*x_limits, *y_limits),
        cmap="viridis",
        vmin=0.0,
        vmax=highest,
    )
    ax.set(xlabel="$y_0$", ylabel="$y_1$")
    if time is not None:
        ax.set_title(f"t = {time:g}")
