"""Trained vector fields, in NumPy, TensorFlow or JAX, whichever `xp` is.

`train_fields.py` writes their weights. Each field is a function
`f(xp, t, y)` of one float64 array, so that every solver takes exactly the
same steps for the same decisions.
"""

import dataclasses
import functools
import pathlib
import sys
import typing

import numpy as np
from workloads import GROUP_EPSILON, GROUPS

sys.path.append(str(pathlib.Path(__file__).parent.parent / "tests"))

from support import detest  # noqa: E402

TOLERANCES = 10.0 ** -np.arange(2, 7.1, 0.5)


@dataclasses.dataclass(frozen=True)
class Problem:
    """An initial value problem on `[0, end]`.

    Args:
        f: Function of `xp`, the time and the state, an array.
        y0: Float64 array.
        end: Float.
    """

    f: typing.Callable
    y0: np.ndarray
    end: float


def _activation(xp, name, y):
    if name == "tanh":
        return xp.tanh(y)
    return xp.where(y > 0, y, xp.exp(xp.minimum(y, 0.0)) - 1)  # elu


def _with_time(xp, t, y):
    return xp.concat([y, xp.ones_like(y[..., :1]) * t], axis=-1)


def mlp(weights, activation="tanh", power=1, takes_time=False):
    """A network `y' = net(y**power)` or `net([y, t])`."""

    def f(xp, t, y):
        y = y**power
        if takes_time:
            y = _with_time(xp, t, y)
        for i in range(0, len(weights), 2):
            y = y @ weights[i] + weights[i + 1]
            if i < len(weights) - 2:
                y = _activation(xp, activation, y)
        return y

    return f


def flow(weights):
    """A tanh network of `[z, t]`, with its divergence as the last feature."""
    *hidden, last, last_bias = weights

    def f(xp, t, y):
        z = y[..., :-1]
        num_features = z.shape[-1]
        jacobian = hidden[0][:num_features] + xp.zeros_like(z[..., None, :1])
        z = _with_time(xp, t, z)
        for i in range(0, len(hidden), 2):
            z = xp.tanh(z @ hidden[i] + hidden[i + 1])
            if i:
                jacobian = jacobian @ hidden[i]
            jacobian = jacobian * (1 - z**2)[..., None, :]
        trace = xp.einsum("...ij,ji->...", jacobian, last)
        return xp.concat([z @ last + last_bias, trace[..., None]], axis=-1)

    return f


def hamiltonian(weights):
    """`y' = (dH/dp, -dH/dq)` for a tanh network `H(q, p)`."""
    kernels = weights[::2]

    def f(xp, t, y):
        slopes = []
        for kernel, bias in zip(kernels[:-1], weights[1:-1:2], strict=True):
            y = xp.tanh(y @ kernel + bias)
            slopes.append(1 - y**2)
        gradient = kernels[-1].T
        for kernel, slope in zip(kernels[-2::-1], slopes[::-1], strict=True):
            gradient = (gradient * slope) @ kernel.T
        return xp.concat([gradient[..., 1:], -gradient[..., :1]], axis=-1)

    return f


def _normalize(xp, y, gamma, beta):
    batch, height, width, channels = y.shape
    groups = xp.reshape(y, (batch, height, width, GROUPS, -1))
    count = height * width * channels // GROUPS
    centred = groups - xp.einsum("bhwgc->bg", groups)[
        :, None, None, :, None
    ] / (count)
    variance = xp.einsum("bhwgc->bg", centred**2) / count
    scale = (variance + GROUP_EPSILON) ** -0.5
    centred = centred * scale[:, None, None, :, None]
    return xp.reshape(centred, y.shape) * gamma + beta


def _convolve(xp, y, kernel, bias):
    """3 x 3, with zeros around."""
    _, height, width, _ = y.shape
    padded = xp.pad(y, [[0, 0], [1, 1], [1, 1], [0, 0]])
    windows = [
        padded[:, i : i + height, j : j + width] @ kernel[i, j]
        for i in range(3)
        for j in range(3)
    ]
    return sum(windows) + bias


def conv_block(weights):
    """The block of the MNIST example: two convolutions, three norms."""
    gammas, betas = weights[0:6:2], weights[1:6:2]
    kernels, biases = weights[6::2], weights[7::2]

    def f(xp, t, y):
        for i in range(2):
            y = _normalize(xp, y, gammas[i], betas[i])
            y = _with_time(xp, t, xp.maximum(y, 0.0))
            y = _convolve(xp, y, kernels[i], biases[i])
        return _normalize(xp, y, gammas[2], betas[2])

    return f


KINDS = {
    "spirals": lambda w: mlp(w, power=3),
    "mnist": conv_block,
    "flow": flow,
    "latent": lambda w: mlp(w, activation="elu"),
    "hamiltonian": hamiltonian,
}


def load(path):
    """Returns the problems by name, from what `train_fields.py` wrote."""
    problems = {}
    with np.load(path) as arrays:
        for name in sorted({key.split("/")[0] for key in arrays}):
            count = sum(key.startswith(f"{name}/w") for key in arrays)
            weights = [
                arrays[f"{name}/w{i}"].astype(np.float64) for i in range(count)
            ]
            f = KINDS[name.split("_")[0]](weights)
            y0 = arrays[f"{name}/y0"].astype(np.float64)
            problems[name] = Problem(f, y0, float(arrays[f"{name}/end"]))
    return problems


def _of_components(components, xp, t, y):
    """One of DETEST's functions, of an array."""
    return xp.stack(components(xp, t, [y[i] for i in range(y.shape[0])]))


def detest_problems():
    """Returns the non-stiff problems of DETEST by name."""
    return {
        name: Problem(
            functools.partial(_of_components, problem.f),
            np.array(problem.y0, np.float64),
            detest.END,
        )
        for name, problem in detest.PROBLEMS.items()
    }
