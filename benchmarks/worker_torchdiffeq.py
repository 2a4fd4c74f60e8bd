"""Worker: one step with torchdiffeq, `odeint` or `odeint_adjoint`.

Run by `run.py`: `python worker_torchdiffeq.py odeint 2`, the last being the
number of threads.
"""

import sys

import protocol
import torch
import torch_fields
import torchdiffeq


def prepare(workload, solve):
    """The step of `workload`, for `protocol.serve`."""
    problem = torch_fields.Problem(workload)
    evaluations = [0]
    problem.field.register_forward_pre_hook(
        lambda *_: evaluations.__setitem__(0, evaluations[0] + 1)
    )
    options = {
        "method": "dopri5",
        "rtol": workload.rtol,
        "atol": workload.atol,
    }
    if workload.step_size:
        options = {
            "method": "rk4",
            "options": {"step_size": workload.step_size},
        }
    last = {}

    def run(start):
        states = solve(problem.field, start, problem.times, **options)
        last["forward"] = evaluations[0]
        return states

    def step():
        evaluations[0] = 0
        last["states"] = problem.step(run)

    def report():
        counts = {
            "nfe": last["forward"],
            "nfe_backward": evaluations[0] - last["forward"],
        }
        return problem.arrays(last["states"]), counts

    return step, report


if __name__ == "__main__":
    _, name, threads = sys.argv
    torch.set_num_threads(int(threads))
    solve = getattr(torchdiffeq, name)
    protocol.serve(lambda workload: prepare(workload, solve))
