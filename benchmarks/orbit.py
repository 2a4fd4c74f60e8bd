"""Evaluations and error of each explicit method on one orbit.

Kepler's problem in the plane with an eccentricity of 0.3, in float64, from the
point nearest to the centre once around: the exact end is the start.

    python benchmarks/orbit.py    # Writes docs/orbit.csv.

Reference:
- Hairer, Norsett and Wanner, 1993, Solving Ordinary Differential Equations I,
  section II.4, whose orbit has an eccentricity of 0.5
"""

import itertools
import pathlib
import sys

import numpy as np
import tensorflow as tf

import keras_node

FOLDER = pathlib.Path(__file__).parents[1]
sys.path.append(str(FOLDER / "examples"))
from csv_log import record_command  # noqa: E402

METHODS = ("tsit5", "dopri5", "dopri8", "bosh3")
RTOLS = (1e-3, 1e-5, 1e-7, 1e-9)
ECCENTRICITY = 0.3


def gravity(t, state):
    """Returns the velocity and the acceleration towards the centre."""
    place, velocity = state[:2], state[2:]
    return tf.concat([velocity, -place / tf.norm(place) ** 3], axis=0)


def start():
    """Returns place and velocity at the point nearest to the centre."""
    nearest = 1.0 - ECCENTRICITY
    speed = np.sqrt((1.0 + ECCENTRICITY) / nearest)
    return np.array([nearest, 0.0, 0.0, speed])


def measure(method, rtol):
    """Returns a row: the evaluations, and the distance from the start."""
    solver = type(keras_node.solvers.get(method))(rtol=rtol, atol=rtol)
    y = tf.constant(start())
    results = keras_node.odeint(gravity, y, (0.0, 2.0 * np.pi), solver)
    counts = results.diagnostics
    error = float(tf.norm(results.states[-1] - y))
    return {
        "solver": method,
        "rtol": rtol,
        "nfe": int(counts.num_ode_fn_evaluations),
        "rejected": int(counts.num_rejected_steps),
        "error": f"{error:.1e}",
    }


def main():
    """Measures, writes the CSV file, and prints it."""
    cases = itertools.product(METHODS, RTOLS)
    log = FOLDER / "docs" / "orbit.csv"
    record_command(__doc__, log, itertools.starmap(measure, cases))


if __name__ == "__main__":
    main()
