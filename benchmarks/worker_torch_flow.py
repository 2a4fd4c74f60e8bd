"""Worker: trains a continuous flow with torchdiffeq.

Run by `two_moons.py`: `python worker_torch_flow.py flow.npz`. Prints the test
negative log-likelihood and the seconds of training.
"""

import math
import sys
import time

import numpy as np
import protocol
import torch
import torchdiffeq


class Field(torch.nn.Module):
    """Three layers of state and time, with the exact trace."""

    def __init__(self, weights):
        super().__init__()
        layers = []
        for kernel, bias in zip(weights[::2], weights[1::2], strict=True):
            layer = torch.nn.Linear(*kernel.shape)
            layer.weight.data = torch.from_numpy(kernel.T.copy())
            layer.bias.data = torch.from_numpy(bias)
            layers += [layer, torch.nn.Tanh()]
        self.net = torch.nn.Sequential(*layers[:-1])

    def forward(self, t, state):
        y = state[0]
        with torch.enable_grad():
            y = y.requires_grad_(True) if y.is_leaf else y
            f = self.net(torch.cat([y, t.expand(len(y), 1)], dim=1))
            divergence = 0
            for i in range(y.shape[1]):
                (row,) = torch.autograd.grad(
                    f[:, i].sum(), y, create_graph=True
                )
                divergence = divergence + row[:, i]
        return f, divergence


def negative_log_likelihood(field, x, tolerance):
    """Returns the mean of `-log p(x)` in nats."""
    start = (x, torch.zeros(len(x)))
    y, log_det = torchdiffeq.odeint(
        field,
        start,
        torch.tensor([1.0, 0.0]),
        method="dopri5",
        rtol=tolerance,
        atol=tolerance,
    )
    log_base = -0.5 * (y[-1] ** 2).sum(1) - math.log(2 * math.pi)
    return -(log_base + log_det[-1]).mean()


def main(path):
    """Trains on the batches of a file."""
    torch.set_num_threads(protocol.THREADS)
    with np.load(path) as arrays:
        count = sum(name.startswith("arr_") for name in arrays)
        weights = [arrays[f"arr_{i}"] for i in range(count)]
        points, test = arrays["points"], arrays["test"]
        tolerance = float(arrays["tolerance"])
        learning_rate = float(arrays["learning_rate"])
    field = Field(weights)
    optimizer = torch.optim.Adam(field.parameters(), lr=learning_rate)
    start = time.perf_counter()
    for batch in torch.from_numpy(points):
        optimizer.zero_grad()
        negative_log_likelihood(field, batch, tolerance).backward()
        optimizer.step()
    seconds = time.perf_counter() - start
    test = torch.from_numpy(test)
    print(float(negative_log_likelihood(field, test, tolerance)), seconds)


if __name__ == "__main__":
    main(*sys.argv[1:])
