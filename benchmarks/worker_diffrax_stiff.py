"""Worker of `stiff.py`: diffrax's Kvaerno5, in float64.

python worker_diffrax_stiff.py results.json
"""

import json
import sys
import time

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import stiff_fields

jax.config.update("jax_enable_x64", True)
REPEATS = 5


def solver_of(f, end, counted):
    """Returns a function of the state and the tolerances.

    Args:
        f: Dynamics `(t, y, args)`.
        end: Float, the time of the state that it returns.
        counted: String, which of diffrax's statistics it returns beside it.
    """

    def solve(y0, rtol, atol):
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(f),
            diffrax.Kvaerno5(),
            t0=0.0,
            t1=end,
            dt0=None,
            y0=y0,
            stepsize_controller=diffrax.PIDController(rtol=rtol, atol=atol),
            max_steps=2**16,
            throw=False,
        )
        succeeded = solution.result == diffrax.RESULTS.successful
        last = jnp.where(succeeded, solution.ys[-1], jnp.nan)
        return last, solution.stats[counted]

    return solve


def measure(function, *arguments):
    """Returns the results, and the median of the milliseconds."""
    results = jax.block_until_ready(function(*arguments))
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        times.append(1e3 * (time.perf_counter() - start))
    return results, float(np.median(times))


def curve(problem):
    """Returns `[state, accepted steps, ms]` at every tolerance."""
    f = problem.f
    solve = jax.jit(
        solver_of(
            lambda t, y, _: jnp.stack(f(jnp, t, y)),
            problem.end,
            "num_accepted_steps",
        )
    )
    rows = []
    for rtol in stiff_fields.TOLERANCES:
        (y, steps), milliseconds = measure(
            solve, jnp.asarray(problem.y0), rtol, rtol * problem.atol
        )
        rows.append([np.asarray(y).tolist(), int(steps), milliseconds])
    return rows


def batch():
    """Returns the largest number of steps, and milliseconds, of the batch."""
    *arrays, y0 = stiff_fields.batch()
    solve = solver_of(
        lambda t, y, _: stiff_fields.batch_field(jnp, arrays, y),
        stiff_fields.END,
        "num_steps",
    )
    solve = jax.jit(jax.vmap(solve, (0, None, None)))
    (_, steps), milliseconds = measure(
        solve, jnp.asarray(y0), stiff_fields.RTOL, stiff_fields.ATOL
    )
    return [int(steps.max()), milliseconds]


def main(path):
    """Writes everything as JSON."""
    problems = stiff_fields.PROBLEMS.items()
    results = {name: curve(problem) for name, problem in problems}
    results["batch"] = batch()
    with open(path, "w", encoding="utf-8") as file:
        json.dump(results, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
