"""Stiff problems for every contender; needs numpy alone.

A field is a function of the array module (numpy, jax.numpy, or the TensorFlow
functions of the same names), the time and the state.
"""

import typing

import numpy as np

TOLERANCES = tuple(10.0**-n for n in range(4, 10))
# The batch: samples, sizes, and the time to solve for.
BATCH, SIZE, WIDTH, END = 512, 16, 64, 1.0
RTOL, ATOL = 1e-4, 1e-6


class Problem(typing.NamedTuple):
    """A stiff initial value problem.

    Attributes:
        f: Callable `(xp, t, y)` that returns the list of derivatives.
        y0: The initial state.
        end: The last time; the first is 0.
        atol: The absolute tolerance over the relative one.
    """

    f: typing.Callable
    y0: tuple
    end: float
    atol: float


def _robertson(xp, t, y):
    a, b, c = y[0], y[1], y[2]
    slow, back, fast = 0.04 * a, 1e4 * b * c, 3e7 * b * b
    return [back - slow, slow - back - fast, fast]


def _hires(xp, t, y):
    a, b, c, d, e, f, g, h = [y[i] for i in range(8)]
    pair = 280.0 * f * h
    return [
        -1.71 * a + 0.43 * b + 8.32 * c + 0.0007,
        1.71 * a - 8.75 * b,
        -10.03 * c + 0.43 * d + 0.035 * e,
        8.32 * b + 1.71 * c - 1.12 * d,
        -1.745 * e + 0.43 * f + 0.43 * g,
        -pair + 0.69 * d + 1.71 * e - 0.43 * f + 0.69 * g,
        pair - 1.81 * g,
        -pair + 1.81 * g,
    ]


def _oregonator(xp, t, y):
    a, b, c = y[0], y[1], y[2]
    return [
        77.27 * (b + a * (1.0 - 8.375e-6 * a - b)),
        (c - (1.0 + a) * b) / 77.27,
        0.161 * (a - c),
    ]


def _van_der_pol(xp, t, y):
    return [y[1], 1e3 * (1.0 - y[0] * y[0]) * y[1] - y[0]]


PROBLEMS = {
    "robertson": Problem(_robertson, (1.0, 0.0, 0.0), 100.0, 1e-6),
    "hires": Problem(
        _hires, (1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0057), 321.8122, 1e-3
    ),
    "oregonator": Problem(_oregonator, (1.0, 2.0, 3.0), 360.0, 1e-3),
    "van der pol": Problem(_van_der_pol, (2.0, 0.0), 2000.0, 1e-3),
}


def batch():
    """Returns rates, both kernels and the initial states of the batch."""
    generator = np.random.default_rng(0)
    rates = np.logspace(0.0, 3.0, SIZE)
    inner = generator.normal(size=(SIZE, WIDTH)) / np.sqrt(SIZE)
    outer = generator.normal(size=(WIDTH, SIZE)) / np.sqrt(WIDTH)
    return rates, inner, outer, generator.normal(size=(BATCH, SIZE))


def batch_field(xp, arrays, y):
    """Returns `rates * (tanh(y inner) outer - y)`, a network that relaxes."""
    rates, inner, outer = arrays
    return rates * (xp.tanh(y @ inner) @ outer - y)
