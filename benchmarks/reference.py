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


def end_of(workload):
    """Returns the state at the last time; of a flow without its log-det."""
    y0 = workload.initial_state.astype(np.float64)
    if workload.kind == "flow":
        y0 = np.pad(y0, ((0, 0), (0, 1)))
    field = field_of(workload)
    tolerance = LOOSE if workload.kind == "conv" else TOLERANCE
    solution = integrate.solve_ivp(
        lambda t, y: field(t, y.reshape(y0.shape)).ravel(),
        (workload.times[0], workload.times[-1]),
        y0.ravel(),
        method="DOP853",
        rtol=tolerance,
        atol=1e-2 * tolerance,
    )
    end = solution.y[:, -1].reshape(y0.shape)
    return end[:, :-1] if workload.kind == "flow" else end
