"""Worker of `controller.py`: diffrax's Tsit5 at all tolerances, in float64.

python worker_diffrax_curves.py fields.npz results.npz
"""

import sys

import diffrax
import fields
import jax
import jax.numpy as jnp
import numpy as np

jax.config.update("jax_enable_x64", True)


def solver_of(f, y0, end):
    """Returns a compiled function of the tolerance."""

    @jax.jit
    def solve(tolerance):
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(lambda t, y, args: f(jnp, t, y)),
            diffrax.Tsit5(),
            t0=0.0,
            t1=end,
            dt0=None,
            y0=jnp.asarray(y0),
            stepsize_controller=diffrax.PIDController(
                rtol=tolerance, atol=tolerance
            ),
            max_steps=2**16,
            throw=False,
        )
        # At a loose tolerance the steps of an unstable solve run out.
        succeeded = solution.result == diffrax.RESULTS.successful
        last = jnp.where(succeeded, solution.ys[-1], jnp.nan)
        return last, solution.stats["num_steps"]

    return solve


def main(path, results):
    """Writes last states and evaluations of every problem."""
    problems = fields.detest_problems() | fields.load(path)
    arrays = {}
    for name, problem in problems.items():
        solve = solver_of(problem.f, problem.y0, problem.end)
        ends, steps = zip(*map(solve, fields.TOLERANCES), strict=True)
        arrays[f"{name}/y"] = np.stack(ends)
        # Two evaluations choose the first step; then six a step.
        arrays[f"{name}/counts"] = 6 * np.array(steps) + 2
    np.savez(results, **arrays)


if __name__ == "__main__":
    main(*sys.argv[1:])
