"""How the time and the memory of a training step grow, one axis at a time."""

import dataclasses
import sys

import numpy as np
import protocol
import rows

CONTENDERS = ("keras_node graph", "keras_node XLA", "diffrax", "torchdiffeq")
SECONDS = 1.0  # For the timed steps of a point.
FEWEST, MOST = 3, 30
LARGE = {"state": 32, "width": 128, "batch": 512}


@dataclasses.dataclass(frozen=True)
class Curve:
    """One axis.

    Args:
        label: String, of the axis.
        workload: String, a name of `workloads.py`.
        options: Function of a value that returns the factory's arguments.
        values: Tuple of integers.
    """

    label: str
    workload: str
    options: object
    values: tuple


CURVES = {
    "batch": Curve(
        "batch",
        "mlp_small",
        lambda n: {"batch": n},
        (1, 8, 64, 512, 4096),
    ),
    "state": Curve(
        "size of the state",
        "mlp_small",
        lambda n: {"state": n},
        (2, 8, 32, 128, 1024),
    ),
    "steps": Curve(
        "accepted steps",
        "adaptive",
        lambda n: {"times": (0.0, 0.5 * n)},
        (10, 100, 1_000, 10_000),
    ),
    "times": Curve(
        "requested times",
        "mlp_small",
        lambda n: {"times": tuple(np.linspace(0.0, 1.0, n))},
        (2, 10, 100, 1_000),
    ),
}


def measure(name, pythons):
    """Returns seconds and megabytes of each contender at each value."""
    curve = CURVES[name]
    points = {contender: [] for contender in CONTENDERS}
    for value in curve.values:
        for contender in CONTENDERS:
            points[contender].append(point(curve, contender, value, pythons))
    return {"values": curve.values, "points": points}


def point(curve, contender, value, pythons):
    """Returns seconds and megabytes, from a process of its own."""
    environment, script, arguments = rows.CONTENDERS[contender]
    worker = protocol.Worker(pythons[environment], script, arguments)
    try:
        answer, _ = worker.set_up(curve.workload, **curve.options(value))
    except RuntimeError as error:
        print(f"{contender} at {value} is left out: {error}", file=sys.stderr)
        return None
    (first,) = worker.run(1)
    seconds = worker.run(int(np.clip(SECONDS / first, FEWEST, MOST)))
    worker.close()
    print(curve.label, value, contender, f"{1e3 * np.median(seconds):.2f} ms")
    return {
        "seconds": float(np.median(seconds)),
        "megabytes": answer["megabytes"],
    }


def slope(values, measured):
    """Returns the slope between the last two points, both axes logarithmic."""
    (x0, y0), (x1, y1) = [
        (x, y) for x, y in zip(values, measured, strict=True) if y
    ][-2:]
    return float(np.log(y1 / y0) / np.log(x1 / x0))
