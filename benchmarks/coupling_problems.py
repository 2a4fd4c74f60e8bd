"""What `couplings.py` and its workers share: points, weights, files.

The distributions are those of torchcfm's `sample_moons` and
`sample_8gaussians`, each point by itself. Needs numpy alone.
"""

import math

import numpy as np

# Source and target; torchcfm's tutorials have all three.
PROBLEMS = {
    "N to moons": ("normal", "two_moons"),
    "N to 8 Gaussians": ("normal", "eight_gaussians"),
    "moons to 8 Gaussians": ("two_moons", "eight_gaussians"),
}
COUPLINGS = ("independent", "optimal_transport")
BATCH_SIZE = 256
LEARNING_RATE = 1e-3
# Of Adam: the default of PyTorch, not that of Keras.
EPSILON = 1e-8
EULER_STEPS = 100
WIDTH = 64
# A base of samples alone is drawn from so many points.
POOL = 100_000


def normal(count, rng):
    """Standard normal."""
    return rng.normal(size=(count, 2))


def two_moons(count, rng):
    """Two half circles of radius 3, blurred along the diagonal."""
    angle = rng.uniform(0, np.pi, count)
    x, y = np.cos(angle), np.sin(angle)
    outer = rng.random(count) < 0.5
    points = np.where(outer, (x, y), (1 - x, 0.5 - y)).T
    # torchdyn adds one number, uniform, to both coordinates.
    return 3 * (points + 0.2 * rng.random((count, 1))) - 1


def eight_gaussians(count, rng):
    """Eight normals on a circle of radius 5."""
    angle = 2 * np.pi * rng.integers(0, 8, count) / 8
    centres = 5 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    # "var=0.1" of torchcfm makes the covariance sqrt(0.1) times the identity.
    return centres + rng.normal(0, math.sqrt(math.sqrt(0.1)), (count, 2))


DISTRIBUTIONS = {
    "normal": normal,
    "two_moons": two_moons,
    "eight_gaussians": eight_gaussians,
}


def sample(name, count, seed):
    """Returns points `(count, 2)` of a distribution, float32."""
    points = DISTRIBUTIONS[name](count, np.random.default_rng(seed))
    return points.astype("float32")


def initial_weights(seed):
    """Returns kernels and biases in turn, as Keras begins by default."""
    rng = np.random.default_rng(seed)
    sizes = (3, WIDTH, WIDTH, WIDTH, 2)
    weights = []
    for fan_in, fan_out in zip(sizes[:-1], sizes[1:], strict=True):
        limit = math.sqrt(6 / (fan_in + fan_out))
        weights.append(rng.uniform(-limit, limit, (fan_in, fan_out)))
        weights.append(np.zeros(fan_out))
    return [array.astype("float32") for array in weights]


def write_case(path, problem, coupling, seed, steps, count):
    """Writes what a worker reads.

    Args:
        path: String, the npz file.
        problem: Key of `PROBLEMS`.
        coupling: One of `COUPLINGS`.
        seed: Integer.
        steps: Integer, of training.
        count: Integer, the points to carry from source to target.
    """
    source, target = PROBLEMS[problem]
    arrays = {
        "points": sample(target, steps * BATCH_SIZE, (seed, 0)),
        "start": sample(source, count, (seed, 1)),
        "coupling": coupling,
        "seed": seed,
    }
    if source != "normal":
        arrays["base"] = sample(source, POOL, (seed, 2))
    np.savez(path, *initial_weights((seed, 3)), **arrays)


def read_case(path):
    """Returns a dict: what `write_case` wrote, and the list "weights"."""
    with np.load(path) as file:
        case = dict(file)
    count = sum(name.startswith("arr_") for name in case)
    case["weights"] = [case.pop(f"arr_{i}") for i in range(count)]
    case["coupling"], case["seed"] = str(case["coupling"]), int(case["seed"])
    return case
