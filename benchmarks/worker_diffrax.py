"""Worker: one step with diffrax, jitted.

Run by `run.py`: `python worker_diffrax.py recursive` (the default adjoint) or
`backsolve`.
"""

import sys

import diffrax
import equinox
import jax
import jax.numpy as jnp
import numpy as np
import protocol
import workloads

ADJOINTS = {
    "recursive": diffrax.RecursiveCheckpointAdjoint,
    "backsolve": diffrax.BacksolveAdjoint,
}


def dense(weights, y):
    """The dense layers, tanh between them."""
    count = len(weights) // 2
    for i in range(count):
        y = y @ weights[f"kernel_{i}"] + weights[f"bias_{i}"]
        y = jnp.tanh(y) if i < count - 1 else y
    return y


def with_time(t, y):
    """The time as the last feature."""
    return jnp.concatenate([y, jnp.full_like(y[..., :1], t)], -1)


def mlp(t, y, weights):
    """Autonomous."""
    return dense(weights, y)


def convolution(y, kernel, bias):
    """Channels last, of the same size."""
    layout = ("NHWC", "HWIO", "NHWC")
    return (
        jax.lax.conv_general_dilated(
            y, kernel, (1, 1), "SAME", dimension_numbers=layout
        )
        + bias
    )


def normalize(y, gamma, beta):
    """Group normalization, channels last."""
    groups = y.reshape(len(y), -1, workloads.GROUPS, y.shape[-1] // 32)
    centred = groups - groups.mean((1, 3), keepdims=True)
    variance = (centred**2).mean((1, 3), keepdims=True)
    scaled = centred * jax.lax.rsqrt(variance + workloads.GROUP_EPSILON)
    return scaled.reshape(y.shape) * gamma + beta


def conv(t, y, w):
    """The ODE block of the MNIST example."""
    for i in range(2):
        y = jax.nn.relu(normalize(y, w[f"gamma_{i}"], w[f"beta_{i}"]))
        y = convolution(with_time(t, y), w[f"kernel_{i}"], w[f"bias_{i}"])
    return normalize(y, w["gamma_2"], w["beta_2"])


def oscillator(t, y, weights):
    """`y'' = -y`."""
    return jnp.stack([y[..., 1], -y[..., 0]], -1)


def van_der_pol(t, y, weights):
    """`y'' = mu (1 - y**2) y' - y`."""
    damping = weights["mu"] * (1 - y[..., 0] ** 2) * y[..., 1]
    return jnp.stack([y[..., 1], damping - y[..., 0]], -1)


def make_flow(probes):
    """A flow's field, of a batch: slopes and divergence side by side."""

    def divergence(t, z, weights, probe):
        def field(z):
            return dense(weights, with_time(t, z))

        slope, pullback = jax.vjp(field, z)
        if probe is not None:
            return slope, jnp.sum(pullback(probe)[0] * probe)
        (jacobian,) = jax.vmap(pullback)(jnp.eye(len(z)))
        return slope, jnp.trace(jacobian)

    axes = (None, 0, None, None if probes is None else 0)
    batched = jax.vmap(divergence, axes)

    def field(t, y, weights):
        slope, trace = batched(t, y[:, :-1], weights, probes)
        return jnp.concatenate([slope, trace[:, None]], 1)

    return field


FIELDS = {
    "mlp": mlp,
    "conv": conv,
    "oscillator": oscillator,
    "van_der_pol": van_der_pol,
}


def make_solve(workload, field, adjoint):
    """Returns the solve `(weights, state) -> (states, stats)`."""
    times = jnp.asarray(workload.times)
    is_short = len(workload.times) == 2
    controller = diffrax.PIDController(rtol=workload.rtol, atol=workload.atol)
    solver = diffrax.Tsit5()

    def solve(weights, state):
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(field),
            solver,
            t0=workload.times[0],
            t1=workload.times[-1],
            dt0=None,
            y0=state,
            args=weights,
            stepsize_controller=controller,
            adjoint=ADJOINTS[adjoint](),
            saveat=diffrax.SaveAt(t1=True)
            if is_short
            else diffrax.SaveAt(ts=times),
            max_steps=workload.max_steps,
        )
        states = solution.ys
        if is_short:
            states = jnp.concatenate([state[None], states])
        return states, solution.stats

    if not workload.own_clocks:
        return solve
    return jax.vmap(solve, ({"mu": 0}, 0), (1, 0))


def prepare(workload, adjoint):
    """The step of `workload`, for `protocol.serve`."""
    weights = {k: jnp.asarray(v) for k, v in workload.weights.items()}
    state = jnp.asarray(workload.initial_state)
    is_flow = workload.kind == "flow"
    field = FIELDS.get(workload.kind) or make_flow(workload.probes)
    solve = make_solve(workload, field, adjoint)
    last = {}

    def loss(inputs):
        weights, state = inputs
        if is_flow:
            state = jnp.pad(state, ((0, 0), (0, 1)))
        states, stats = solve(weights, state)
        return jnp.sum(states[1:] ** 2), (states, stats)

    function = loss
    if workload.trains:
        function = equinox.filter_value_and_grad(loss, has_aux=True)
    function = equinox.filter_jit(function)

    def step():
        last["results"] = jax.block_until_ready(function((weights, state)))

    def report():
        value, gradients = last["results"], None
        if workload.trains:
            value, gradients = value
        _, (states, stats) = value
        if is_flow:
            states = states[1:]
        arrays = {"solution": states}
        if gradients is not None:
            arrays |= {**gradients[0], "initial_state": gradients[1]}
        accepted = int(np.max(stats["num_accepted_steps"]))
        attempts = accepted + int(np.max(stats["num_rejected_steps"]))
        # Two evaluations choose the first step; Tsit5 is first same as last.
        counts = {"nfe": 6 * attempts + 2, "accepted": accepted}
        return {k: np.asarray(v) for k, v in arrays.items()}, counts

    return step, report


if __name__ == "__main__":
    adjoint = sys.argv[1]
    protocol.serve(lambda workload: prepare(workload, adjoint))
