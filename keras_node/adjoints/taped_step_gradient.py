"""The gradient of one step of any method, by taking it again under a tape."""

import tensorflow as tf

from keras_node.adjoints.step_gradient import StepCotangents
from keras_node.solvers import step


class TapedStepGradient:
    """The reverse of a step whose stages need the Jacobian of the dynamics.

    The gradient goes through the Jacobian, too: it is that of the discrete
    step.

    Args:
        solver: `OneStepSolver`.
        field: `TracedField`.
        pieces: `Pieces` of the solve.
        needs_time: Whether `t` and `dt` have cotangents.
    """

    def __init__(self, solver, field, pieces, needs_time):
        self._solver = solver
        self._field = field
        self._pieces = pieces
        self._needs_time = needs_time

    def pull_back(self, taken, y1_bar, f1_bar, increment_bars=()):
        """Returns the `StepCotangents`; see `StepGradient`."""
        t, dt, y, f = tf.nest.map_structure(
            tf.identity, (taken.t, taken.dt, taken.y, taken.f)
        )
        field, sources = self._field.with_copies()
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([t, dt, y, f, sources])
            y1, f1, increments = self._solver.step(
                step.Evaluator(field),
                self._pieces.at(taken.t).interval,
                t,
                dt,
                y,
                f,
            )
            outputs, bars = [*y1, *f1], [*y1_bar, *f1_bar]
            for increment, bar in zip(increments, increment_bars, strict=False):
                outputs += increment
                bars += bar
        gradients = tape.gradient(
            outputs,
            [t, dt, y, f, sources],
            output_gradients=bars,
            unconnected_gradients=tf.UnconnectedGradients.ZERO,
        )
        t_bar, dt_bar, y_bar, f_bar, source_bars = gradients
        return StepCotangents(
            y=y_bar,
            f=f_bar,
            t=t_bar if self._needs_time else None,
            dt=dt_bar if self._needs_time else None,
            sources=[tf.convert_to_tensor(bar) for bar in source_bars],
        )
