"""The rows of the benchmark: what is compared with whom, and the targets."""

import dataclasses

# Name: (environment, script, arguments).
CONTENDERS = {
    "keras_node graph": ("tf", "worker_keras_node.py", ["graph"]),
    "keras_node XLA": ("tf", "worker_keras_node.py", ["xla"]),
    "keras_node eager": ("tf", "worker_keras_node.py", ["eager"]),
    "bare loop": ("tf", "worker_keras_node.py", ["bare"]),
    "diffrax": ("jax", "worker_diffrax.py", ["recursive"]),
    "diffrax backsolve": ("jax", "worker_diffrax.py", ["backsolve"]),
    "torchdiffeq": ("torch", "worker_torchdiffeq.py", ["odeint", "2"]),
    # Small tensors are faster on one thread.
    "torchdiffeq, 1 thread": (
        "torch",
        "worker_torchdiffeq.py",
        ["odeint", "1"],
    ),
    "torchdiffeq adjoint": (
        "torch",
        "worker_torchdiffeq.py",
        ["odeint_adjoint", "2"],
    ),
    "torchode": ("torch", "worker_torchode.py", ["2"]),
    "torchode, 1 thread": ("torch", "worker_torchode.py", ["1"]),
    "tfp": ("tf", "worker_tfp.py", []),
}
COMPILED = ("keras_node graph", "keras_node XLA")
TORCHDIFFEQ = ("torchdiffeq", "torchdiffeq, 1 thread", "torchdiffeq adjoint")
ALL = (
    *COMPILED,
    "bare loop",
    "diffrax",
    "diffrax backsolve",
    *TORCHDIFFEQ,
    "torchode",
    "torchode, 1 thread",
    "tfp",
)
FORWARD = (
    *COMPILED,
    "diffrax",
    "torchdiffeq",
    "torchdiffeq, 1 thread",
    "torchode",
    "torchode, 1 thread",
    "tfp",
)
# XLA on a CPU takes seconds for a convolution's gradient.
CONVOLUTIONS = ("keras_node graph", "bare loop", "diffrax", *TORCHDIFFEQ)
FLOWS = (*COMPILED, "diffrax", "torchdiffeq", "torchdiffeq, 1 thread")


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of the table.

    Args:
        title: String.
        workload: String, a name of `workloads.py`.
        contenders: Tuple of names.
        targets: Dict: the ratio to reach, by the contender of ours it is for
            (`"best"`: the fastest of ours). With `" / tfp"` after it, the
            ratio is to that peer alone, else to the best.
    """

    title: str
    workload: str
    contenders: tuple
    targets: dict


ROWS = [
    Row(
        "MLP 8/64/256",
        "mlp_small",
        ALL,
        {"best": 0.6, "keras_node graph": 0.8},
    ),
    Row(
        "MLP 32/128/512",
        "mlp_large",
        ALL,
        {"best": 0.6, "keras_node graph": 0.6},
    ),
    Row("MLP 64/512/1024", "mlp_wide", ALL, {"best": 0.6}),
    Row("MLP 8/64/256, forward", "mlp_small_forward", FORWARD, {"best": 0.9}),
    Row("MLP 32/128/512, forward", "mlp_large_forward", FORWARD, {"best": 0.9}),
    Row("MLP 64/512/1024, forward", "mlp_wide_forward", FORWARD, {"best": 0.9}),
    Row(
        "convolutions 64 x 6 x 6, batch 128",
        "conv",
        CONVOLUTIONS,
        {"keras_node graph": 0.65},
    ),
    Row(
        "flow, D = 2, exact trace",
        "flow_2",
        (*FLOWS, "tfp"),
        {"best": 0.7, "best / tfp": 0.25},
    ),
    Row(
        "flow, D = 16, exact trace",
        "flow_16",
        (*FLOWS, "tfp"),
        {"best": 0.7, "best / tfp": 0.25},
    ),
    Row("flow, D = 64, Hutchinson", "flow_64", FLOWS, {"best": 0.7}),
    Row(
        "Van der Pol, mu 0.1 to 100, own clocks",
        "van_der_pol",
        (*COMPILED, "diffrax", "torchode", "torchode, 1 thread"),
        {"best": 0.7},
    ),
    Row("100 times inside a step", "mlp_outputs", FORWARD, {"best": 0.7}),
    Row(
        "eager, one sample",
        "mlp_one",
        ("keras_node eager", "torchdiffeq", "torchdiffeq, 1 thread"),
        {"keras_node eager": 1.0},
    ),
    Row(
        "10,000 fixed steps (RK4)",
        "rk4",
        (*COMPILED, "torchdiffeq", "torchdiffeq, 1 thread"),
        {"best": 0.7},
    ),
    Row(
        "10,000 adaptive steps",
        "adaptive",
        (*COMPILED, "diffrax", "torchdiffeq", "torchdiffeq, 1 thread"),
        {"best": 0.7},
    ),
]


def is_peer(name):
    """Whether a contender is not keras_node."""
    return not name.startswith(("keras_node", "bare"))
