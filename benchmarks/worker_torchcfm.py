"""Worker: flow matching with torchcfm.

Run by `couplings.py`: `python worker_torchcfm.py case.npz results.npz`.
"""

import sys
import time

import coupling_problems as problems
import numpy as np
import torch
import torchcfm
import torchdiffeq
from torchcfm.models.models import MLP

MATCHERS = {
    "independent": torchcfm.ConditionalFlowMatcher,
    "optimal_transport": torchcfm.ExactOptimalTransportConditionalFlowMatcher,
}


def make_field(weights):
    """Returns torchcfm's network, with these weights."""
    field = MLP(2, w=problems.WIDTH, time_varying=True)
    arrays = [torch.from_numpy(array.T.copy()) for array in weights]
    with torch.no_grad():
        for parameter, array in zip(field.parameters(), arrays, strict=True):
            parameter.copy_(array)
    return field


def base_sampler(case):
    """Returns a function of `n` that draws from the source."""
    if "base" not in case:
        return lambda n: torch.randn(n, 2)
    pool = torch.from_numpy(case["base"])
    return lambda n: pool[torch.randint(len(pool), (n,))]


def train(field, case):
    """Takes a step of Adam for each batch of the case's points."""
    matcher = MATCHERS[case["coupling"]](sigma=0.0)
    draw = base_sampler(case)
    optimizer = torch.optim.Adam(
        field.parameters(), lr=problems.LEARNING_RATE, eps=problems.EPSILON
    )
    for x1 in torch.from_numpy(case["points"]).split(problems.BATCH_SIZE):
        optimizer.zero_grad()
        t, xt, ut = matcher.sample_location_and_conditional_flow(
            draw(len(x1)), x1
        )
        vt = field(torch.cat([xt, t[:, None]], dim=1))
        torch.mean((vt - ut) ** 2).backward()
        optimizer.step()


def main(path, results_path):
    """Trains, and carries the points of the case from source to target."""
    torch.set_num_threads(1)
    case = problems.read_case(path)
    torch.manual_seed(case["seed"])
    np.random.seed(case["seed"])  # Of torchcfm's coupling.
    field = make_field(case["weights"])
    start, cpu_start = time.perf_counter(), time.process_time()
    train(field, case)
    seconds = time.perf_counter() - start
    cpu_seconds = time.process_time() - cpu_start
    with torch.no_grad():
        path = torchdiffeq.odeint(
            lambda t, x: field(torch.cat([x, t.expand(len(x), 1)], dim=1)),
            torch.from_numpy(case["start"]),
            torch.linspace(0.0, 1.0, problems.EULER_STEPS + 1),
            method="euler",
        )
    np.savez(results_path, path=path, seconds=seconds, cpu_seconds=cpu_seconds)


if __name__ == "__main__":
    main(*sys.argv[1:])
