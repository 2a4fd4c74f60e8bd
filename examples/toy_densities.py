"""Points in the plane that look simple and are hard to fit a density to."""

import numpy as np

SIDE = 4.0  # All lie within a square of about this half side.


def two_circles(count, rng):
    """Two rings around one centre."""
    angle = rng.uniform(0, 2 * np.pi, count)
    radius = np.where(rng.random(count) < 0.5, 3.0, 1.5)
    points = radius * [np.cos(angle), np.sin(angle)]
    return points.T + rng.normal(0, 0.15, (count, 2))


def two_moons(count, rng):
    """Two half rings, one inside the other's bend."""
    angle = rng.uniform(0, np.pi, count)
    side = np.where(rng.random(count) < 0.5, 1.0, -1.0)
    x = side * (np.cos(angle) - 0.5)
    y = side * (np.sin(angle) - 0.25)
    return 2 * np.stack([x, y], axis=1) + rng.normal(0, 0.2, (count, 2))


def eight_gaussians(count, rng):
    """Eight small bumps on a circle."""
    angle = 2 * np.pi * rng.integers(0, 8, count) / 8
    points = 3 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return points + rng.normal(0, 0.3, (count, 2))


def pinwheel(count, rng):
    """Five arms that bend more, the further out they are."""
    radius = 1 + 0.3 * rng.normal(size=count)
    width = 0.1 * rng.normal(size=count)
    turn = 2 * np.pi * rng.integers(0, 5, count) / 5 + 0.25 * np.exp(radius)
    x = radius * np.cos(turn) - width * np.sin(turn)
    y = radius * np.sin(turn) + width * np.cos(turn)
    return 2 * np.stack([x, y], axis=1)


def checkerboard(count, rng):
    """Every other field of a board of four by four: edges everywhere."""
    x = rng.uniform(-4, 4, count)
    row = 2 * rng.integers(0, 2, count) + np.floor(x / 2) % 2
    return np.stack([x, 2 * (row + rng.random(count)) - 4], axis=1)


DENSITIES = {
    "two_circles": two_circles,
    "two_moons": two_moons,
    "eight_gaussians": eight_gaussians,
    "pinwheel": pinwheel,
    "checkerboard": checkerboard,
}


def sample(name, count, seed):
    """Returns points `(count, 2)` of a density, float32."""
    points = DENSITIES[name](count, np.random.default_rng(seed))
    return points.astype("float32")
