"""Initial value problems with closed-form solutions, shared by the tests.

Dynamics are dtype-agnostic, `exact(t)` is in NumPy and float64, with a leading
axis for times if `t` has one.
"""

import typing

import numpy as np
import tensorflow as tf
from scipy import linalg


class Problem(typing.NamedTuple):
    """`dy/dt = f(t, y)` with the solution `exact` on `[t0, t1]`."""

    f: typing.Callable
    exact: typing.Callable
    t0: float
    t1: float

    def initial_state(self, t=None, dtype="float64"):
        """Returns the solution at `t`, by default at `t0`, as a tensor."""
        return tf.constant(self.exact(self.t0 if t is None else t), dtype)


def constant(a=0.2, b=3.0):
    """A straight line, which a nonlinear term leaves alone."""
    return Problem(
        f=lambda t, y: a + (y - (a * t + b)) ** 5,
        exact=lambda t: np.stack([a * np.asarray(t) + b], axis=-1),
        t0=1.0,
        t1=2.0,
    )


def sine():
    """Time-dependent dynamics and a solution that oscillates."""

    def exact(t):
        t = np.asarray(t, np.float64)
        y = (
            -0.5 * t**4 * np.cos(2 * t)
            + 0.5 * t**3 * np.sin(2 * t)
            + 0.25 * t**2 * np.cos(2 * t)
            - t**3
            + 2 * t**4
            + (np.pi - 0.25) * t**2
        )
        return np.stack([y], axis=-1)

    def f(t, y):
        return 2 * y / t + t**4 * tf.sin(2 * t) - t**2 + 4 * t**3

    return Problem(f, exact, t0=1.0, t1=2.0)


def linear(dimension=4):
    """A rotation in many planes, slightly damped; the matrix exponential."""
    random = np.random.default_rng(0)
    a = random.normal(size=(dimension, dimension))
    a = (a - a.T) / 2 - 0.1 * np.eye(dimension)
    y1 = random.normal(size=dimension)

    def exact(t):
        flow = linalg.expm(a * (np.asarray(t)[..., None, None] - 1))
        return flow @ y1

    def f(t, y):
        return tf.linalg.matvec(tf.constant(a, y.dtype), y)

    return Problem(f, exact, t0=1.0, t1=2.0)


def exponential(rate=-1.5):
    """Exponential growth or decay."""
    return Problem(
        f=lambda t, y: rate * y,
        exact=lambda t: np.exp(rate * np.stack([np.asarray(t)], axis=-1)),
        t0=1.0,
        t1=2.0,
    )


def riccati():
    """`y - t = 1 / (3 - t)`, with a pole at 3."""
    return Problem(
        f=lambda t, y: (y - t) ** 2 + 1,
        exact=lambda t: np.stack(
            [np.asarray(t) + 1 / (3 - np.asarray(t))], axis=-1
        ),
        t0=1.0,
        t1=2.0,
    )


def cycle():
    """`log u = sin t`, `log v = cos t`: nonlinear, smooth and coupled.

    Its error shows the order of every method at moderate step sizes; the 5th
    order pairs have such small leading terms that elsewhere they seem 6th.
    """

    def f(t, y):
        u, v = tf.unstack(y, axis=-1)
        return tf.stack([u * tf.math.log(v), -v * tf.math.log(u)], axis=-1)

    return Problem(
        f,
        exact=lambda t: np.exp(np.stack([np.sin(t), np.cos(t)], axis=-1)),
        t0=0.3,
        t1=1.5,
    )


def all_in_two_leaves():
    """All of the above but `cycle` on one clock, in a nested state."""
    scalars = [constant(), sine(), exponential(), riccati()]
    system = linear()

    def exact(t):
        rows = [problem.exact(t) for problem in scalars]
        return {"scalars": np.concatenate(rows, -1), "system": system.exact(t)}

    def f(t, y):
        parts = tf.unstack(y["scalars"], axis=-1)
        slopes = [
            problem.f(t, part)
            for problem, part in zip(scalars, parts, strict=True)
        ]
        return {
            "scalars": tf.stack(slopes, axis=-1),
            "system": system.f(t, y["system"]),
        }

    return Problem(f, exact, t0=1.0, t1=2.0)
