"""Weights, inputs and tolerances of the benchmarks; needs numpy alone.

Every contender builds its vector field from the same arrays, in its own
environment, so this file imports neither TensorFlow nor a peer.
"""

import dataclasses
import itertools

import numpy as np


@dataclasses.dataclass(frozen=True)
class Workload:
    """One initial value problem on `0 <= t <= 1`.

    Args:
        name: String, the key in `WORKLOADS`.
        kind: String, `"mlp"` (`y' = net(y)`) or `"conv"` (`y' = net(t, y)`).
        weights: Dict of float32 arrays in the order of Keras' `weights`.
            Kernels are `(in, out)` or `(height, width, in, out)`.
        initial_state: Float32 array, `(batch, features)` or channels last
            `(batch, height, width, channels)`.
        rtol: Float, relative tolerance.
        atol: Float, absolute tolerance.
    """

    name: str
    kind: str
    weights: dict[str, np.ndarray]
    initial_state: np.ndarray
    rtol: float
    atol: float


GROUPS = 32
GROUP_EPSILON = 1e-5


def _float32(arrays):
    return {name: array.astype(np.float32) for name, array in arrays.items()}


def mlp(name, state, width, batch, gain, seed=0):
    """Two hidden tanh layers, Glorot normal kernels times `gain`.

    A plain Glorot field is so smooth that three or four steps cross the
    interval; `gain` makes it as hard as a trained one.
    """
    rng = np.random.default_rng(seed)
    sizes = (state, width, width, state)
    weights = {}
    for i, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
        scale = gain * np.sqrt(2 / (fan_in + fan_out))
        weights[f"kernel_{i}"] = scale * rng.normal(size=(fan_in, fan_out))
        weights[f"bias_{i}"] = 0.1 * rng.normal(size=fan_out)
    initial_state = rng.normal(size=(batch, state)).astype(np.float32)
    return Workload(name, "mlp", _float32(weights), initial_state, 1e-5, 1e-6)


def conv(name, channels=64, size=6, batch=128, seed=0):
    """The ODE block of the MNIST example, with PyTorch's initial weights.

    GroupNorm-ReLU-ConcatConv-GroupNorm-ReLU-ConcatConv-GroupNorm; time is the
    first channel that each convolution sees.
    """
    rng = np.random.default_rng(seed)
    bound = 1 / np.sqrt(9 * (channels + 1))
    weights = {}
    for i in range(3):
        weights[f"gamma_{i}"] = np.ones(channels)
        weights[f"beta_{i}"] = np.zeros(channels)
        if i < 2:
            shape = (3, 3, channels + 1, channels)
            weights[f"kernel_{i}"] = rng.uniform(-bound, bound, shape)
            weights[f"bias_{i}"] = rng.uniform(-bound, bound, channels)
    shape = (batch, size, size, channels)
    initial_state = rng.normal(size=shape).astype(np.float32)
    return Workload(name, "conv", _float32(weights), initial_state, 1e-3, 1e-3)


# A factory for each name: an array is made only where it is used.
WORKLOADS = {
    "mlp_small": lambda: mlp("mlp_small", 8, 64, batch=256, gain=2.5),
    "mlp_large": lambda: mlp("mlp_large", 32, 128, batch=512, gain=2.5),
    "mlp_64": lambda: mlp("mlp_64", 64, 64, batch=64, gain=2.5),
    "conv": lambda: conv("conv"),
}
