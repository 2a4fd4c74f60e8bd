"""Worker: one training step with diffrax, jitted, its default adjoint.

Run by `speed.py`: `python worker_diffrax.py`. Needs the MLP workloads only.
"""

import diffrax
import equinox
import jax
import jax.numpy as jnp
import numpy as np
import protocol


def mlp_field(t, y, weights):
    """Two hidden tanh layers on the whole batch, autonomous."""
    for i in range(3):
        y = y @ weights[f"kernel_{i}"] + weights[f"bias_{i}"]
        y = jnp.tanh(y) if i < 2 else y
    return y


def solve(workload, weights, state, field=mlp_field):
    """`diffrax.diffeqsolve` on `[0, 1]`, everything else its default."""
    return diffrax.diffeqsolve(
        diffrax.ODETerm(field),
        diffrax.Tsit5(),
        t0=0.0,
        t1=1.0,
        dt0=None,
        y0=state,
        args=weights,
        stepsize_controller=diffrax.PIDController(
            rtol=workload.rtol, atol=workload.atol
        ),
    )


def count_evaluations(workload, weights, state):
    """Evaluations of one forward solve, seen by a callback."""
    calls = []

    def counted(t, y, args):
        jax.debug.callback(lambda: calls.append(None))
        return mlp_field(t, y, args)

    # The solution must be asked for: XLA drops what nobody reads.
    jitted = equinox.filter_jit(lambda w, y: solve(workload, w, y, counted).ys)
    jax.block_until_ready(jitted(weights, state))
    jax.effects_barrier()
    return len(calls)


def prepare(workload):
    """The training step of `workload`, for `protocol.serve`."""
    if workload.kind != "mlp":
        raise ValueError(f"Expected an MLP. Received: kind={workload.kind!r}")
    weights = {k: jnp.asarray(v) for k, v in workload.weights.items()}
    state = jnp.asarray(workload.initial_state)
    last = {}

    @equinox.filter_jit
    @equinox.filter_value_and_grad(has_aux=True)
    def loss(inputs):
        solution = solve(workload, *inputs)
        return jnp.sum(solution.ys[-1] ** 2), solution.stats

    def step():
        last["value"], last["gradients"] = loss((weights, state))
        jax.block_until_ready(last)

    def report():
        gradients = {**last["gradients"][0]}
        gradients["initial_state"] = last["gradients"][1]
        stats = last["value"][1]
        counts = {
            "nfe": count_evaluations(workload, weights, state),
            "accepted": int(stats["num_accepted_steps"]),
            "rejected": int(stats["num_rejected_steps"]),
        }
        return {k: np.asarray(v) for k, v in gradients.items()}, counts

    return step, report


if __name__ == "__main__":
    protocol.serve(prepare)
