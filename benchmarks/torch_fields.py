"""Vector fields in PyTorch, for the workers that use it."""

import numpy as np
import torch
import workloads


class DenseField(torch.nn.Module):
    """Dense layers, tanh between them; of state and time for a flow."""

    def __init__(self, workload):
        super().__init__()
        self.takes_time = not workload.is_autonomous
        layers = []
        for i in range(workload.num_layers):
            layers.append(
                torch.nn.Linear(*workload.weights[f"kernel_{i}"].shape)
            )
            layers.append(torch.nn.Tanh())
        self.net = torch.nn.Sequential(*layers[:-1])

    def forward(self, t, y):
        return self.net(with_time(t, y) if self.takes_time else y)


class FlowField(DenseField):
    """The dense field with its divergence as the last feature."""

    def __init__(self, workload):
        super().__init__(workload)
        probes = workload.probes
        self.probes = None if probes is None else torch.from_numpy(probes)

    def forward(self, t, y):
        with torch.enable_grad():
            z = y[:, :-1].requires_grad_(True)
            slope = super().forward(t, z)
            return torch.cat([slope, self.divergence(slope, z)[:, None]], 1)

    def divergence(self, slope, z):
        """The trace of the Jacobian, or Hutchinson's estimate."""

        def product(vectors):
            (row,) = torch.autograd.grad(slope, z, vectors, create_graph=True)
            return row

        if self.probes is not None:
            return (product(self.probes) * self.probes).sum(1)
        units = torch.eye(z.shape[1])
        rows = [
            product(unit.expand_as(z))[:, i] for i, unit in enumerate(units)
        ]
        return sum(rows)


class ConvField(torch.nn.Module):
    """ODE block of the MNIST example, as in torchdiffeq's `odenet_mnist.py`."""

    def __init__(self, workload):
        super().__init__()
        channels = len(workload.weights["gamma_0"])
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

    def forward(self, t, y):
        y = self.relu(self.norm0(y))
        y = self.conv0(torch.cat([y, torch.ones_like(y[:, :1]) * t], 1))
        y = self.relu(self.norm1(y))
        y = self.conv1(torch.cat([y, torch.ones_like(y[:, :1]) * t], 1))
        return self.norm2(y)


class Oscillator(torch.nn.Module):
    """`y'' = -y`."""

    def __init__(self, workload):
        super().__init__()

    def forward(self, t, y):
        return torch.stack([y[:, 1], -y[:, 0]], 1)


class VanDerPol(torch.nn.Module):
    """`y'' = mu (1 - y**2) y' - y`."""

    def __init__(self, workload):
        super().__init__()
        self.mu = torch.nn.Parameter(torch.from_numpy(workload.weights["mu"]))

    def forward(self, t, y):
        damping = self.mu * (1 - y[:, 0] ** 2) * y[:, 1]
        return torch.stack([y[:, 1], damping - y[:, 0]], 1)


FIELDS = {
    "mlp": DenseField,
    "flow": FlowField,
    "conv": ConvField,
    "oscillator": Oscillator,
    "van_der_pol": VanDerPol,
}


def with_time(t, y):
    """The time as the last feature; `t` is a scalar, or one of each sample."""
    return torch.cat([y, t.reshape(-1, 1).expand(len(y), 1)], 1)


class Problem:
    """A workload in PyTorch: field, initial state and times."""

    def __init__(self, workload):
        self.workload = workload
        self.field = FIELDS[workload.kind](workload)
        values = workload.weights.values()
        with torch.no_grad():
            for parameter, value in zip(
                self.field.parameters(), values, strict=True
            ):
                parameter.copy_(to_torch(value))
        state = workload.initial_state
        if state.ndim == 4:
            state = np.ascontiguousarray(state.transpose(0, 3, 1, 2))
        self.state = torch.from_numpy(state).requires_grad_(workload.trains)
        self.times = torch.tensor(workload.times, dtype=torch.float32)

    def start(self):
        """Returns the state to start from, with a log-det if it is a flow's."""
        if self.workload.kind == "flow":
            return torch.nn.functional.pad(self.state, (0, 1))
        return self.state

    def step(self, solve):
        """Runs `solve(start)` and, if asked for, all gradients."""
        if not self.workload.trains:
            with torch.no_grad():
                return solve(self.start())
        self.field.zero_grad()
        self.state.grad = None
        states = solve(self.start())
        states[1:].square().sum().backward()
        return states

    def arrays(self, states):
        """Returns what a worker reports."""
        states = states.detach().numpy()
        is_image = states.ndim == 5
        if is_image:
            states = states.transpose(0, 1, 3, 4, 2)
        if self.workload.kind == "flow":
            states = states[1:]
        arrays = {"solution": states}
        if self.workload.trains:
            gradients = [from_torch(p.grad) for p in self.field.parameters()]
            arrays |= dict(zip(self.workload.weights, gradients, strict=True))
            gradient = self.state.grad.numpy()
            if is_image:
                gradient = gradient.transpose(0, 2, 3, 1)
            arrays["initial_state"] = gradient
        return arrays


def to_torch(array):
    """Keras' layout to PyTorch's: a 2-D array is a kernel, a 4-D one too."""
    axes = {2: (1, 0), 4: (3, 2, 0, 1)}.get(array.ndim, range(array.ndim))
    return torch.from_numpy(np.ascontiguousarray(array.transpose(*axes)))


def from_torch(tensor):
    """Inverse of `to_torch`."""
    array = tensor.numpy()
    axes = {2: (1, 0), 4: (2, 3, 1, 0)}.get(array.ndim, range(array.ndim))
    return array.transpose(*axes)
