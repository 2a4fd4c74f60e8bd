"""Worker: one training step with torchdiffeq, `odeint` or `odeint_adjoint`.

Run by `speed.py`: `python worker_torchdiffeq.py odeint dopri5 2`, the last
being the number of threads.
"""

import sys

import numpy as np
import protocol
import torch
import torchdiffeq
import workloads


class Field(torch.nn.Module):
    """Vector field that counts its evaluations."""

    def __init__(self):
        super().__init__()
        self.evaluations = 0

    def forward(self, t, y):
        self.evaluations += 1
        return self.derivative(t, y)


class MLPField(Field):
    """Two hidden tanh layers, autonomous."""

    def __init__(self, weights):
        super().__init__()
        layers = []
        for i in range(3):
            fan_in, fan_out = weights[f"kernel_{i}"].shape
            layers += [torch.nn.Linear(fan_in, fan_out), torch.nn.Tanh()]
        self.net = torch.nn.Sequential(*layers[:-1])

    def derivative(self, t, y):
        return self.net(y)


class ConvField(Field):
    """ODE block of the MNIST example, as in torchdiffeq's `odenet_mnist.py`."""

    def __init__(self, weights):
        super().__init__()
        channels = len(weights["gamma_0"])
        self.norm0 = self._norm(channels)
        self.conv0 = torch.nn.Conv2d(channels + 1, channels, 3, padding=1)
        self.norm1 = self._norm(channels)
        self.conv1 = torch.nn.Conv2d(channels + 1, channels, 3, padding=1)
        self.norm2 = self._norm(channels)
        self.relu = torch.nn.ReLU(inplace=True)

    def _norm(self, channels):
        return torch.nn.GroupNorm(
            workloads.GROUPS, channels, eps=workloads.GROUP_EPSILON
        )

    def _concat(self, t, y):
        return torch.cat([torch.ones_like(y[:, :1]) * t, y], 1)

    def derivative(self, t, y):
        y = self.relu(self.norm0(y))
        y = self.conv0(self._concat(t, y))
        y = self.relu(self.norm1(y))
        y = self.conv1(self._concat(t, y))
        return self.norm2(y)


def to_torch(array):
    """Keras' layout to PyTorch's: a 2-D array is a kernel, a 4-D one too."""
    axes = {2: (1, 0), 4: (3, 2, 0, 1)}.get(array.ndim, range(array.ndim))
    return torch.from_numpy(np.ascontiguousarray(array.transpose(*axes)))


def from_torch(tensor):
    """Inverse of `to_torch`."""
    array = tensor.numpy()
    axes = {2: (1, 0), 4: (2, 3, 1, 0)}.get(array.ndim, range(array.ndim))
    return array.transpose(*axes)


def prepare(workload, solve, method):
    """The training step of `workload`, for `protocol.serve`."""
    fields = {"mlp": MLPField, "conv": ConvField}
    field = fields[workload.kind](workload.weights)
    with torch.no_grad():
        values = workload.weights.values()
        for parameter, value in zip(field.parameters(), values, strict=True):
            parameter.copy_(to_torch(value))
    state = workload.initial_state
    if workload.kind == "conv":
        state = np.ascontiguousarray(state.transpose(0, 3, 1, 2))
    state = torch.from_numpy(state).requires_grad_(True)
    times = torch.tensor([0.0, 1.0])
    tolerances = {"rtol": workload.rtol, "atol": workload.atol}
    counts = {}

    def step():
        field.zero_grad()
        state.grad = None
        field.evaluations = 0
        states = solve(field, state, times, method=method, **tolerances)
        counts["nfe"] = field.evaluations
        states[-1].square().sum().backward()
        counts["nfe_backward"] = field.evaluations - counts["nfe"]

    def report():
        arrays = [from_torch(p.grad) for p in field.parameters()]
        gradients = dict(zip(workload.weights, arrays, strict=True))
        axes = (0, 2, 3, 1) if workload.kind == "conv" else (0, 1)
        gradients["initial_state"] = state.grad.numpy().transpose(*axes)
        return gradients, counts

    return step, report


if __name__ == "__main__":
    _, name, method, threads = sys.argv
    torch.set_num_threads(int(threads))
    solve = getattr(torchdiffeq, name)
    protocol.serve(lambda workload: prepare(workload, solve, method))
