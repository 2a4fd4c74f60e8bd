"""ODE solvers: Runge-Kutta and Rosenbrock methods, and tfp's solvers."""

import tensorflow_probability as tfp

from keras_node.saving import identifiers
from keras_node.solvers.base import Solver
from keras_node.solvers.explicit_methods import (
    RK4,
    Bosh3,
    Dopri5,
    Dopri8,
    Euler,
    Heun,
    Midpoint,
    Tsit5,
)
from keras_node.solvers.rosenbrock import Rosenbrock, RosenbrockTableau
from keras_node.solvers.rosenbrock_methods import Rodas5P, Rosenbrock23
from keras_node.solvers.runge_kutta import ExplicitRungeKutta
from keras_node.solvers.solution import Diagnostics
from keras_node.solvers.tableau import ButcherTableau
from keras_node.solvers.tfp_solvers import (
    BDF,
    DormandPrince,
    ForeignSolver,
    TfpSolver,
)

_REGISTRY = {
    "euler": Euler,
    "midpoint": Midpoint,
    "heun": Heun,
    "rk4": RK4,
    "bosh3": Bosh3,
    "dopri5": Dopri5,
    "tsit5": Tsit5,
    "dopri8": Dopri8,
    "rosenbrock23": Rosenbrock23,
    "rodas5p": Rodas5P,
    "dormand_prince": DormandPrince,
    "bdf": BDF,
}


def get(identifier):
    """Returns the solver that a name, a config dict or an object stands for.

    Args:
        identifier: One of `"euler"`, `"midpoint"`, `"heun"`, `"rk4"`,
            `"bosh3"`, `"dopri5"`, `"tsit5"`, `"dopri8"`, `"rosenbrock23"`,
            `"rodas5p"`, `"dormand_prince"`, `"bdf"`; a dict as `serialize`
            makes it; or any `tfp.math.ode.Solver`.

    Returns:
        A `tfp.math.ode.Solver` with the method `integrate` and the attribute
        `can_replay`; a tfp solver without a name here as a `ForeignSolver`.

    Raises:
        ValueError: If a name is unknown.
        TypeError: If it is not a name, a dict or a solver.

    Example:
    >>> keras_node.solvers.get("tsit5").rtol
    0.001
    """
    solver = identifiers.get(
        identifier, _REGISTRY, "solver", tfp.math.ode.Solver
    )
    is_ours = isinstance(solver, (Solver, TfpSolver))
    return solver if is_ours else ForeignSolver(solver)


def serialize(solver):
    """Returns the config dict of a solver.

    Raises:
        TypeError: If the solver has no `get_config`.
    """
    solver = getattr(solver, "solver", solver)  # Unwraps a `ForeignSolver`.
    return identifiers.serialize(solver, "solver")


__all__ = [
    "BDF",
    "Bosh3",
    "ButcherTableau",
    "Diagnostics",
    "Dopri5",
    "Dopri8",
    "DormandPrince",
    "Euler",
    "ExplicitRungeKutta",
    "Heun",
    "Midpoint",
    "RK4",
    "Rodas5P",
    "Rosenbrock",
    "Rosenbrock23",
    "RosenbrockTableau",
    "Solver",
    "Tsit5",
    "get",
    "serialize",
]
