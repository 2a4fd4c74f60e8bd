"""Measures of a flow between two sets of points; needs numpy and SciPy."""

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist


def squared_wasserstein(x, y):
    """Returns the squared 2-Wasserstein distance of two sets of points.

    Exact for the sets; as an estimate of that of their distributions it is too
    large, the more so the fewer points there are.

    Args:
        x, y: Arrays `(count, dim)`.
    """
    costs = cdist(x, y, "sqeuclidean")
    return costs[linear_sum_assignment(costs)].mean()


def path_energy(path):
    """Returns the integral over [0, 1] of the mean squared speed.

    Args:
        path: Array `(times, count, dim)`, at equal distances of time, as steps
            of Euler's method give it: the velocity of each step is constant.
    """
    velocities = np.diff(path, axis=0) * (len(path) - 1)
    return np.sum(velocities**2, axis=2).mean()


def normalized_path_energy(path, least):
    """Returns `|energy - least| / least`: 0 for optimal transport.

    Args:
        path: As that of `path_energy`.
        least: Float, the squared 2-Wasserstein distance of the distributions
            at the ends.
    """
    return abs(path_energy(path) - least) / least
