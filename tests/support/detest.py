"""Non-stiff test problems of Hull, Enright, Fellen & Sedgwick (1972).

Each problem is integrated over `[0, 20]`. Its dynamics `f(xp, t, y)` takes and
returns a list of components, in NumPy, TensorFlow or JAX, whichever `xp` is.

Reference:
- [Hull et al., 1972, Comparing numerical methods for ordinary differential
  equations](https://doi.org/10.1137/0709052)
"""

import typing

END = 20.0


class Problem(typing.NamedTuple):
    """An initial value problem on `[0, END]`."""

    f: typing.Callable
    y0: list


def _a5(xp, t, y):
    return [(y[0] - t) / (y[0] + t)]


def _c1(xp, t, y):
    inner = [y[i - 1] - y[i] for i in range(1, 9)]
    return [-y[0], *inner, y[8]]


def _orbit(eccentricity):
    def f(xp, t, y):
        r3 = (y[0] ** 2 + y[1] ** 2) ** 1.5
        return [y[2], y[3], -y[0] / r3, -y[1] / r3]

    fastest = ((1 + eccentricity) / (1 - eccentricity)) ** 0.5
    return Problem(f, [1 - eccentricity, 0.0, 0.0, fastest])


def _duffing(xp, t, y):
    force = 2 * xp.sin(2.78535 * t)
    return [y[1], y[0] ** 3 / 6 - y[0] + force]


PROBLEMS = {
    "A1": Problem(lambda xp, t, y: [-y[0]], [1.0]),
    "A3": Problem(lambda xp, t, y: [y[0] * xp.cos(t)], [1.0]),
    "A5": Problem(_a5, [4.0]),
    "B1": Problem(
        lambda xp, t, y: [
            2 * (y[0] - y[0] * y[1]),
            -(y[1] - y[0] * y[1]),
        ],
        [1.0, 3.0],
    ),
    "B2": Problem(
        lambda xp, t, y: [
            -y[0] + y[1],
            y[0] - 2 * y[1] + y[2],
            y[1] - y[2],
        ],
        [2.0, 0.0, 1.0],
    ),
    "B5": Problem(
        lambda xp, t, y: [y[1] * y[2], -y[0] * y[2], -0.51 * y[0] * y[1]],
        [0.0, 1.0, 1.0],
    ),
    "C1": Problem(_c1, [1.0] + [0.0] * 9),
    "D3": _orbit(0.5),
    "E2": Problem(
        lambda xp, t, y: [y[1], (1 - y[0] ** 2) * y[1] - y[0]], [2.0, 0.0]
    ),
    "E3": Problem(_duffing, [0.0, 0.0]),
}


# Steps tried and state at `END` of diffrax 0.7.2 (JAX 0.10.2, float64): Tsit5,
# PIDController(rtol=1e-6, atol=1e-6), dt0=None, max_steps=None. A step takes 6
# evaluations; the first derivative and the automatic first step take 2 more.
DIFFRAX_TSIT5 = {
    "A1": (25, [3.3113241763447274e-08]),
    "A3": (89, [2.4916610072427305]),
    "A5": (13, [-0.7887683674498638]),
    "B1": (146, [0.6761497126114183, 0.18608080778504585]),
    "B2": (36, [1.0000006378348378, 0.9999987265470124, 1.0000006356181494]),
    "B5": (71, [-0.9396675389303234, -0.34210997484472017, 0.7414110809949088]),
    "C1": (
        31,
        [
            2.204775690416251e-09,
            4.288568600646432e-08,
            4.21472586896992e-07,
            2.780384893473857e-06,
            1.381728742671064e-05,
            5.508592263528998e-05,
            0.00018331949531174289,
            0.0005234151606200539,
            0.0013083030926586193,
            0.9979128120934058,
        ],
    ),
    "D3": (
        139,
        [
            -0.5778807467517539,
            0.8633872065512747,
            -0.9596055058382972,
            -0.06492515006992397,
        ],
    ),
    "E2": (182, [2.008149053901378, -0.042520185511275566]),
    "E3": (128, [-0.10039540583081077, 0.24113986979599705]),
}
