"""Converged solutions of the workloads, by SciPy in float64."""

import fields
import numpy as np
from scipy import integrate

TOLERANCE = 1e-9
# Of ReLU, whose kinks hold a high order up.
LOOSE = 1e-6


def oscillator(t, y):
    """`y'' = -y`."""
    return np.stack([y[:, 1], -y[:, 0]], 1)


def field_of(workload):
    """Returns `f(t, y)` of float64 arrays."""
    weights = {k: v.astype(np.float64) for k, v in workload.weights.items()}
    values = list(weights.values())
    if workload.kind == "oscillator":
        return oscillator
    if workload.kind == "van_der_pol":
        mu = weights["mu"]
        return lambda t, y: np.stack(
            [y[:, 1], mu * (1 - y[:, 0] ** 2) * y[:, 1] - y[:, 0]], 1
        )
    if workload.kind == "conv":
        # All normalizations first, then all convolutions.
        order = sorted(weights, key=lambda k: k.startswith(("kernel", "bias")))
        function = fields.conv_block([weights[k] for k in order])
    elif workload.kind == "flow":
        function = fields.flow(values)
    else:
        function = fields.mlp(values)
    return lambda t, y: function(np, t, y)


def solve(f, y0, times, method, rtol, atol):
    """Returns SciPy's last state and number of evaluations of `f(t, y)`."""
    solution = integrate.solve_ivp(
        lambda t, y: np.ravel(f(t, y.reshape(y0.shape))),
        (times[0], times[-1]),
        y0.ravel(),
        method=method,
        rtol=rtol,
        atol=atol,
    )
    return solution.y[:, -1].reshape(y0.shape), solution.nfev


def end_of(workload):
    """Returns the state at the last time; of a flow without its log-det."""
    y0 = workload.initial_state.astype(np.float64)
    if workload.kind == "flow":
        y0 = np.pad(y0, ((0, 0), (0, 1)))
    tolerance = LOOSE if workload.kind == "conv" else TOLERANCE
    end, _ = solve(
        field_of(workload),
        y0,
        workload.times,
        "DOP853",
        tolerance,
        1e-2 * tolerance,
    )
    return end[:, :-1] if workload.kind == "flow" else end
