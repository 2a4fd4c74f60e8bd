"""What an adjoint needs of a solver."""

from keras_node.solvers.runge_kutta import ExplicitRungeKutta


def require_own_solver(solver, name):
    """Raises unless the solver can take its own steps again.

    Raises:
        ValueError: If it is not an `ExplicitRungeKutta`.
    """
    if not isinstance(solver, ExplicitRungeKutta):
        raise ValueError(
            f'adjoint="{name}" must take the steps of a solver again, which '
            "only the Runge-Kutta solvers of keras_node allow. Use one of "
            'them, or adjoint="backsolve". '
            f"Received: solver={type(solver).__name__}"
        )
