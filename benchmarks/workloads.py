"""Weights, inputs and tolerances of the benchmarks; needs numpy alone.

Every contender builds its vector field from the same arrays, in its own
environment, so this file imports neither TensorFlow nor a peer.
"""

import dataclasses
import itertools

import numpy as np


@dataclasses.dataclass(frozen=True)
class Workload:
    """One initial value problem, and what is asked of it.

    Args:
        name: String, of `WORKLOADS`.
        kind: String: `"mlp"` (`y' = net(y)`), `"conv"` (`y' = net(t, y)`),
            `"flow"` (`z' = net([z, t])`, with its divergence), `"oscillator"`
            or `"van_der_pol"` (whose one weight is `mu` of each sample).
        weights: Dict of float32 arrays in the order of Keras' `weights`.
            Kernels are `(in, out)` or `(height, width, in, out)`.
        initial_state: Float32 array, `(batch, features)` or channels last
            `(batch, height, width, channels)`.
        rtol: Float, relative tolerance.
        atol: Float, absolute tolerance.
        times: Tuple of floats, where the solution is asked for. The loss is
            the sum of its squares after the first.
        method: String, `"tsit5"` or `"rk4"`.
        step_size: Float, for fixed steps; else 0.
        own_clocks: Boolean, whether each sample has its own step size.
        max_steps: Integer.
        trains: Boolean, whether gradients are asked for.
        probes: Float32 array like the state, the noise of Hutchinson's trace
            estimate of a flow; with `None` the trace is exact.
    """

    name: str
    kind: str
    weights: dict[str, np.ndarray]
    initial_state: np.ndarray
    rtol: float
    atol: float
    times: tuple = (0.0, 1.0)
    method: str = "tsit5"
    step_size: float = 0.0
    own_clocks: bool = False
    max_steps: int = 4096
    trains: bool = True
    probes: np.ndarray | None = None

    @property
    def is_autonomous(self):
        """Whether the network sees no time."""
        return self.kind not in ("conv", "flow")

    @property
    def num_layers(self):
        """The number of dense layers."""
        return sum(name.startswith("kernel") for name in self.weights)


GROUPS = 32
GROUP_EPSILON = 1e-5


def _float32(arrays):
    return {name: array.astype(np.float32) for name, array in arrays.items()}


def _dense(rng, sizes, gain):
    """Glorot normal kernels times `gain`, small biases."""
    weights = {}
    for i, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
        scale = gain * np.sqrt(2 / (fan_in + fan_out))
        weights[f"kernel_{i}"] = scale * rng.normal(size=(fan_in, fan_out))
        weights[f"bias_{i}"] = 0.1 * rng.normal(size=fan_out)
    return _float32(weights)


def mlp(name, state, width, batch, **options):
    """Two hidden tanh layers.

    A plain Glorot field is so smooth that three or four steps cross the
    interval; the gain makes it as hard as a trained one.
    """
    rng = np.random.default_rng(0)
    weights = _dense(rng, (state, width, width, state), gain=2.5)
    initial_state = rng.normal(size=(batch, state)).astype(np.float32)
    options = {"rtol": 1e-5, "atol": 1e-6, **options}
    return Workload(name, "mlp", weights, initial_state, **options)


def conv(name, channels=64, size=6, batch=128, **options):
    """The ODE block of the MNIST example, with PyTorch's initial weights.

    GroupNorm-ReLU-ConcatConv-GroupNorm-ReLU-ConcatConv-GroupNorm; time is the
    last channel that each convolution sees.
    """
    rng = np.random.default_rng(0)
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
    return Workload(
        name, "conv", _float32(weights), initial_state, 1e-3, 1e-3, **options
    )


def flow(name, size, is_exact, batch=512, width=64):
    """A flow, from data to base: two hidden tanh layers of state and time."""
    rng = np.random.default_rng(0)
    weights = _dense(rng, (size + 1, width, width, size), gain=1.5)
    initial_state = rng.normal(size=(batch, size)).astype(np.float32)
    signs = rng.choice([-1.0, 1.0], (batch, size)).astype(np.float32)
    probes = None if is_exact else signs
    return Workload(
        name, "flow", weights, initial_state, 1e-5, 1e-5, probes=probes
    )


def oscillator(name, **options):
    """Sixteen harmonic oscillators `y'' = -y`."""
    rng = np.random.default_rng(0)
    y0 = rng.normal(size=(16, 2)).astype(np.float32)
    options = {"rtol": 1e-5, "atol": 1e-5, "max_steps": 2**14, **options}
    return Workload(name, "oscillator", {}, y0, **options)


def van_der_pol(name, batch=256, **options):
    """Samples from mild to stiff: `y'' = mu (1 - y**2) y' - y`."""
    mu = np.logspace(-1, 2, batch).astype(np.float32)
    y0 = np.tile(np.float32([2.0, 0.0]), (batch, 1))
    return Workload(
        name,
        "van_der_pol",
        {"mu": mu},
        y0,
        rtol=1e-6,
        atol=1e-6,
        times=(0.0, 10.0),
        own_clocks=True,
        max_steps=2**14,
        **options,
    )


SMALL = {"state": 8, "width": 64, "batch": 256}
LARGE = {"state": 32, "width": 128, "batch": 512}
WIDE = {"state": 64, "width": 512, "batch": 1024}
OUTPUTS = tuple(np.linspace(0.0, 0.05, 101))

# The factory of each name, with its arguments.
WORKLOADS = {
    "mlp_small": (mlp, SMALL),
    "mlp_large": (mlp, LARGE),
    "mlp_wide": (mlp, WIDE),
    "mlp_small_forward": (mlp, {**SMALL, "trains": False}),
    "mlp_large_forward": (mlp, {**LARGE, "trains": False}),
    "mlp_wide_forward": (mlp, {**WIDE, "trains": False}),
    "mlp_64": (mlp, {"state": 64, "width": 64, "batch": 64}),
    "mlp_one": (mlp, {**SMALL, "batch": 1}),
    "mlp_outputs": (mlp, {**LARGE, "times": OUTPUTS}),
    "conv": (conv, {}),
    "flow_2": (flow, {"size": 2, "is_exact": True}),
    "flow_16": (flow, {"size": 16, "is_exact": True}),
    "flow_64": (flow, {"size": 64, "is_exact": False}),
    "van_der_pol": (van_der_pol, {}),
    "rk4": (
        oscillator,
        {"times": (0.0, 100.0), "step_size": 0.01, "method": "rk4"},
    ),
    "adaptive": (oscillator, {"times": (0.0, 5_000.0)}),
}


def make(name, **options):
    """Returns the workload of a name, with some arguments replaced."""
    factory, arguments = WORKLOADS[name]
    return factory(name, **{**arguments, **options})
