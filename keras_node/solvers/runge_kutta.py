"""Base class of the explicit Runge-Kutta methods."""

from keras_node.solvers import step
from keras_node.solvers.one_step import OneStepSolver


class ExplicitRungeKutta(OneStepSolver):
    """Base class of the explicit Runge-Kutta methods.

    A method is its `ButcherTableau`: a subclass sets `tableau`.

    Args:
        **kwargs: The arguments of `OneStepSolver`.

    Reference:
    - [Hairer, Nørsett & Wanner, 1993, Sec. II.4](https://doi.org/10.1007/978-3-540-78862-1)
    """

    def step(self, ode_fn, interval, t, dt, y, f):
        """Takes one step; see `OneStepSolver.step`."""
        return step.runge_kutta_step(
            self.tableau, ode_fn, interval, t, dt, y, f
        )
