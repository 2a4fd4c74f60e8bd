"""The order of each method and of its dense output, fitted to errors."""

import numpy as np
import pytest
from support import problems

import keras_node
from keras_node import solvers

ORDERS = {
    "euler": 1,
    "midpoint": 2,
    "heun": 2,
    "rk4": 4,
    "bosh3": 3,
    "dopri5": 5,
    "tsit5": 5,
    "dopri8": 8,
}
DENSE_ORDERS = {"bosh3": 3, "dopri5": 4, "tsit5": 4, "dopri8": 7}


def slope(step_sizes, errors):
    """Returns the slope of the log error over the log step size."""
    return np.polyfit(np.log(step_sizes), np.log(errors), 1)[0]


@pytest.mark.parametrize("name", ORDERS)
def test_error_falls_with_the_order_of_the_method(name):
    problem = problems.cycle()
    order = ORDERS[name]
    # Order 8 reaches rounding errors with the steps of the others.
    counts = (4, 8, 12) if order == 8 else (16, 24, 32)
    step_sizes = [(problem.t1 - problem.t0) / n for n in counts]
    errors = []
    for step_size, count in zip(step_sizes, counts, strict=True):
        results = keras_node.odeint(
            problem.f,
            problem.initial_state(),
            (problem.t0, problem.t1),
            solver=type(solvers.get(name))(step_size=step_size),
        )
        assert results.diagnostics.num_accepted_steps == count
        error = results.states[-1] - problem.exact(problem.t1)
        errors.append(np.max(np.abs(error)))
    assert slope(step_sizes, errors) == pytest.approx(order, abs=0.3)


@pytest.mark.parametrize("name", DENSE_ORDERS)
def test_error_of_dense_output_within_a_step_falls_with_its_order(name):
    problem = problems.cycle()
    step_sizes = np.array([0.4, 0.2, 0.1])
    thetas = np.array([0.0, 0.3, 0.5, 0.8, 1.0])
    errors = []
    for step_size in step_sizes:
        times = problem.t0 + step_size * thetas
        # At this tolerance the first step is the only one.
        solver = type(solvers.get(name))(rtol=1e9, first_step_size=1.0)
        results = keras_node.odeint(
            problem.f, problem.initial_state(), times, solver=solver
        )
        assert results.diagnostics.num_accepted_steps == 1
        error = results.states - problem.exact(times)
        errors.append(np.max(np.abs(error[1:-1])))
    # Dense output of order q has a local error of h**(q + 1).
    assert slope(step_sizes, errors) == pytest.approx(
        DENSE_ORDERS[name] + 1, abs=0.3
    )
