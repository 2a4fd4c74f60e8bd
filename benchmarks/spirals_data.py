"""Spirals that turn one way or the other; needs numpy alone."""

import numpy as np

COUNT, LENGTH, UNITS, WIDTH, RATE, BATCH = 256, 100, 8, 128, 1e-2, 32


def spirals(count, seed):
    """Returns values `(count, LENGTH, 2)`, times and labels.

    Points turn by two an unit of time and draw in by 0.3, over two turns of
    `2 pi`; half of the spirals are mirrored.
    """
    rng = np.random.default_rng(seed)
    times = np.linspace(0, 4 * np.pi, LENGTH)
    angle = rng.uniform(0, 2 * np.pi, (count, 1)) - 2 * times
    values = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    values *= np.exp(-0.3 * times)[:, None]
    labels = np.arange(count) < count // 2
    values[labels, :, 0] *= -1
    times = np.tile(times, (count, 1))
    return values.astype("float32"), times.astype("float32"), labels * 1.0


def batches(seed):
    """Yields the rows of batches, each spiral once before any comes again."""
    rng = np.random.default_rng(seed)
    while True:
        order = rng.permutation(COUNT)
        yield from np.split(order, COUNT // BATCH)
