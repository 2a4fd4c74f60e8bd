"""Plots of vector fields in the plane, and of trajectories."""

import keras
import numpy as np
import tensorflow as tf

from keras_node.dynamics.vector_field import VectorField
from keras_node.flows.cnf_bijector import CNFBijector
from keras_node.integration.solve import odeint
from keras_node.latent.latent_ode import LatentODE
from keras_node.layers.ode_layer import ODELayer
from keras_node.visualize import style

_FIELD_COLOR = "0.65"
_NUM_TIMES = 200


def phase_portrait(
    dynamics,
    x_limits=(-2.0, 2.0),
    y_limits=(-2.0, 2.0),
    time=0.0,
    initial_states=None,
    times=None,
    solver="tsit5",
    kind="stream",
    num=25,
    ax=None,
):
    """Draws the vector field of dynamics in the plane, and trajectories.

    Args:
        dynamics: As in `ODELayer`, for a state `(batch, 2)`; or an `ODELayer`,
            `CNFBijector` or `LatentODE`, for its dynamics. Keras layers that
            are not built yet are built.
        x_limits: Tuple of two floats, of the first number of the state.
            Default `(-2.0, 2.0)`.
        y_limits: Tuple of two floats, of the second. Default `(-2.0, 2.0)`.
        time: Float, the time of the field. Default 0.0.
        initial_states: Float array `(n, 2)`, where trajectories begin, marked
            with dots; or `None` (default) for none.
        times: Tuple of two floats, when trajectories begin and end. Default
            `None`, those of the layer, if it has any.
        solver: Solver identifier for them, see `keras_node.solvers.get`.
            Default `"tsit5"`.
        kind: `"stream"` (default) for lines along the field, `"quiver"` for
            arrows whose lengths are speeds.
        num: Positive integer, points of the field along each side. Default 25.
        ax: `matplotlib.axes.Axes`, or `None` (default) for a new figure.

    Returns:
        The `Axes`.

    Raises:
        ValueError: If the state is not of two numbers, trajectories have no
            times, or an argument is out of its range.
        TypeError: If `dynamics` is not callable.

    Example:
    >>> ax = keras_node.visualize.phase_portrait(
    ...     lambda t, y: tf.stack([y[:, 1], -tf.sin(y[:, 0])], axis=1),
    ...     initial_states=[[1.0, 0.0]],
    ...     times=(0.0, 6.0),
    ... )
    """
    if isinstance(dynamics, (ODELayer, CNFBijector, LatentODE)):
        times = getattr(dynamics, "times", None) if times is None else times
        dynamics = dynamics.dynamics
    if kind not in ("stream", "quiver"):
        raise ValueError(
            f'`kind` must be "stream" or "quiver". Received: kind={kind!r}'
        )
    ode_fn = VectorField(dynamics).bind()
    dtype = getattr(dynamics, "compute_dtype", keras.config.floatx())
    x, y, points = style.grid(x_limits, y_limits, num)
    slopes = _slopes(ode_fn, time, tf.constant(points, dtype))
    ax = style.axes(ax, figsize=(4.5, 4.5))
    u, v = slopes[:, 0].reshape(num, num), slopes[:, 1].reshape(num, num)
    if kind == "stream":
        ax.streamplot(
            x, y, u, v, color=_FIELD_COLOR, linewidth=0.8, arrowsize=0.8
        )
    else:
        ax.quiver(x, y, u, v, color=_FIELD_COLOR, angles="xy")
    if initial_states is not None:
        initial_states = _initial_states(initial_states, dtype)
        _draw_solution(ax, ode_fn, initial_states, times, solver)
    ax.set(xlim=x_limits, ylim=y_limits, xlabel="$y_0$", ylabel="$y_1$")
    ax.set_aspect("equal")
    return ax


def trajectories(times, states, plane=False, labels=None, ax=None):
    """Draws solutions over time, or in the plane.

    Over time, each feature has a colour, which all samples share; in the
    plane, each sample is a line that begins with a dot.

    Args:
        times: Float array `(T,)` or `(T, batch)`, as `odeint` returns it.
        states: Float array `(T, batch, features)` or `(T, features)`,
            time-major as `odeint` returns it. For the batch-major sequences of
            an `ODELayer`, pass `keras.ops.swapaxes(outputs, 0, 1)`.
        plane: Boolean, whether to draw the second of two features against the
            first. Default `False`.
        labels: List of strings, the names of the features. Default `None`,
            `y` with their numbers.
        ax: `matplotlib.axes.Axes`, or `None` (default) for a new figure.

    Returns:
        The `Axes`.

    Raises:
        ValueError: If shapes do not fit.

    Example:
    >>> results = keras_node.odeint(
    ...     lambda t, y: -y, tf.ones([1, 2]), tf.linspace(0.0, 3.0, 50)
    ... )
    >>> ax = keras_node.visualize.trajectories(results.times, results.states)
    """
    times, states = np.asarray(times), np.asarray(states)
    states = states[:, None] if states.ndim == 2 else states
    _check_trajectories(times, states, plane, labels)
    if labels is None:
        labels = [f"$y_{{{i}}}$" for i in range(states.shape[-1])]
    if plane:
        ax = style.axes(ax, figsize=(4.5, 4.5))
        _draw_in_plane(ax, states)
        ax.set(xlabel=labels[0], ylabel=labels[1])
        return ax
    ax = style.axes(ax, figsize=(6.0, 3.5))
    alpha = 1.0 if states.shape[1] == 1 else 0.7
    for i, label in enumerate(labels):
        lines = ax.plot(
            times, states[..., i], color=style.color(i), alpha=alpha
        )
        lines[0].set_label(label)
    ax.set(xlabel="time", ylabel="state")
    if len(labels) > 1:
        ax.legend(frameon=False)
    else:
        ax.set_ylabel(labels[0])
    return ax


def _slopes(ode_fn, time, points):
    """Returns the field at points, `(n, 2)`.

    Raises:
        ValueError: If the state or the derivative is not of two numbers.
    """
    hint = "`dynamics` must take a state of shape (batch, 2)."
    try:
        slopes = np.asarray(ode_fn(tf.constant(time, points.dtype), points))
    except (ValueError, tf.errors.InvalidArgumentError) as error:
        raise ValueError(
            f"{hint} Received: dynamics that do not take it: {error}"
        ) from error
    if slopes.shape != points.shape:
        raise ValueError(
            f"{hint} Received: a derivative of shape {slopes.shape} for a "
            f"state of shape {tuple(points.shape)}"
        )
    return slopes


def _initial_states(initial_states, dtype):
    states = np.asarray(initial_states)
    if states.ndim != 2 or states.shape[1] != 2:
        raise ValueError(
            "`initial_states` must be of shape (n, 2). "
            f"Received: initial_states of shape {states.shape}"
        )
    return tf.constant(states, dtype)


def _draw_solution(ax, ode_fn, initial_states, times, solver):
    if times is None:
        raise ValueError(
            "Trajectories from `initial_states` need `times`, their start and "
            "end, such as times=(0.0, 1.0). Received: times=None"
        )
    grid = np.linspace(times[0], times[-1], _NUM_TIMES)
    _draw_in_plane(ax, odeint(ode_fn, initial_states, grid, solver).states)


def _draw_in_plane(ax, states):
    states = np.asarray(states)
    for i in range(states.shape[1]):
        x, y = states[:, i].T
        ax.plot(x, y, color=style.color(i), linewidth=1.8)
        ax.plot(x[:1], y[:1], "o", color=style.color(i), markersize=5)


def _check_trajectories(times, states, plane, labels):
    is_fit = states.ndim == 3 and times.shape in (
        states.shape[:1],
        states.shape[:2],
    )
    if not is_fit:
        raise ValueError(
            "`states` must be of shape (T, batch, features) or (T, features), "
            "and `times` of shape (T,) or (T, batch). Received: times of "
            f"shape {times.shape}, states of shape {states.shape}"
        )
    num_features = states.shape[-1]
    if plane and num_features != 2:
        raise ValueError(
            "In the plane there must be two features; choose them, such as "
            "`states[..., :2]`. Received: plane=True, states of shape "
            f"{states.shape}"
        )
    if labels is not None and len(labels) != num_features:
        raise ValueError(
            f"`labels` must name each of {num_features} features. "
            f"Received: labels={labels}"
        )
