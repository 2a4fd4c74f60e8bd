"""Worker: the training step of torchdiffeq's example `latent_ode.py`.

Run by `latent_step.py`: `python worker_torch_latent.py problem.npz`. Writes its
predictions of the posterior mean beside the file, and answers each number
on standard input with as many wall times of a training step. The networks and
the loss are those of the example, the weights those of the file.
"""

import json
import math
import sys
import time

import numpy as np
import protocol
import torch
import torchdiffeq

LATENT_DIM = 4
SCALE = 0.3


class Field(torch.nn.Module):
    """The dynamics, which count their evaluations."""

    def __init__(self, layers):
        super().__init__()
        self.layers = torch.nn.ModuleList(layers)
        self.nfe = 0

    def forward(self, t, z):
        self.nfe += 1
        *hidden, last = self.layers
        for layer in hidden:
            z = torch.nn.functional.elu(layer(z))
        return last(z)


class Model(torch.nn.Module):
    """Recognition network, dynamics and decoder."""

    def __init__(self, arrays):
        super().__init__()
        kernel, recurrent, bias = (arrays[f"rnn_{i}"] for i in range(3))
        self.recurrent = linear(np.concatenate([kernel, recurrent]), bias)
        self.head = linear(arrays["head_0"], arrays["head_1"])
        self.field = Field(linears(arrays, "field"))
        self.decoder = torch.nn.ModuleList(linears(arrays, "decoder"))

    def encode(self, values):
        h = torch.zeros(len(values), self.recurrent.out_features)
        for i in reversed(range(values.shape[1])):
            h = torch.tanh(self.recurrent(torch.cat([values[:, i], h], dim=1)))
        return self.head(h).split(LATENT_DIM, dim=1)

    def predict(self, z0, times, tolerances):
        z = torchdiffeq.odeint(
            self.field,
            z0,
            times,
            method="dopri5",
            rtol=tolerances[0],
            atol=tolerances[1],
        )
        hidden = torch.relu(self.decoder[0](z.permute(1, 0, 2)))
        return self.decoder[1](hidden)

    def loss(self, values, times, tolerances):
        mean, log_variance = self.encode(values)
        z0 = torch.randn_like(mean) * torch.exp(0.5 * log_variance) + mean
        error = values - self.predict(z0, times, tolerances)
        constant = math.log(SCALE) + 0.5 * math.log(2 * math.pi)
        log_likelihood = -0.5 * (error / SCALE) ** 2 - constant
        kl = 0.5 * (mean**2 + torch.exp(log_variance) - 1 - log_variance)
        return (kl.sum(1) - log_likelihood.sum((1, 2))).mean()


def linear(kernel, bias):
    layer = torch.nn.Linear(*kernel.shape)
    layer.weight.data = torch.from_numpy(kernel.T.copy())
    layer.bias.data = torch.from_numpy(bias)
    return layer


def linears(arrays, name):
    count = sum(key.startswith(name) for key in arrays) // 2
    return [
        linear(arrays[f"{name}_{2 * i}"], arrays[f"{name}_{2 * i + 1}"])
        for i in range(count)
    ]


def main(path):
    """Answers requests until standard input closes."""
    torch.set_num_threads(protocol.THREADS)
    with np.load(path) as file:
        arrays = dict(file)
    model = Model(arrays)
    values = torch.from_numpy(arrays["values"])
    times = torch.from_numpy(arrays["times"])
    tolerances = arrays["tolerances"].tolist()
    # Weights that stay, so that every round does the same work.
    optimizer = torch.optim.Adam(model.parameters(), lr=0.0)
    with torch.no_grad():
        mean, _ = model.encode(values)
        prediction = model.predict(mean, times, tolerances)
    np.savez(f"{path}.answer.npz", prediction=prediction, nfe=model.field.nfe)
    print("ready", flush=True)
    for line in sys.stdin:
        seconds = []
        for _ in range(int(line)):
            start = time.perf_counter()
            optimizer.zero_grad()
            model.loss(values, times, tolerances).backward()
            optimizer.step()
            seconds.append(time.perf_counter() - start)
        print(json.dumps(seconds), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
