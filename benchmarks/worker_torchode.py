"""Worker: one step with torchode, each sample with its own step size.

Run by `run.py`: `python worker_torchode.py 2`, the number of threads.
"""

import sys

import protocol
import torch
import torch_fields
import torchode


def prepare(workload):
    """The step of `workload`, for `protocol.serve`."""
    problem = torch_fields.Problem(workload)
    term = torchode.ODETerm(problem.field)
    solver = torchode.AutoDiffAdjoint(
        torchode.Tsit5(term=term),
        torchode.IntegralController(
            atol=workload.atol, rtol=workload.rtol, term=term
        ),
    )
    times = problem.times.expand(len(workload.initial_state), -1)
    last = {}

    def run(start):
        value_problem = torchode.InitialValueProblem(y0=start, t_eval=times)
        last["solution"] = solver.solve(value_problem)
        return last["solution"].ys.transpose(0, 1)

    def step():
        last["states"] = problem.step(run)

    def report():
        stats = last["solution"].stats
        counts = {
            "nfe": int(stats["n_f_evals"].max()),
            "accepted": int(stats["n_accepted"].max()),
        }
        return problem.arrays(last["states"]), counts

    return step, report


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[1]))
    protocol.serve(prepare)
