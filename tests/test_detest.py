"""Work for accuracy, beside mature implementations of the same methods."""

import functools

import numpy as np
import pytest
import tensorflow as tf
from scipy import integrate
from support import detest

import keras_node
from keras_node import solvers

# Of both, rtol and atol.
TOLERANCE = 1e-6

# The peer, and the evaluations of one step.
PEERS = {"dopri5": ("RK45", 6), "dopri8": ("DOP853", 12), "tsit5": (None, 6)}


def solve_with_scipy(problem, method, tolerance, atol=None):
    return integrate.solve_ivp(
        lambda t, y: problem.f(np, t, list(y)),
        (0.0, detest.END),
        problem.y0,
        method=method,
        rtol=tolerance,
        atol=atol or tolerance,
    )


@functools.cache
def exact(name):
    """Returns the solution at the end, by SciPy at a tolerance of 1e-13."""
    problem = detest.PROBLEMS[name]
    return solve_with_scipy(problem, "DOP853", 1e-13, 1e-14).y[:, -1]


def error_of(name, y):
    return np.max(np.abs(y - exact(name)) / (1 + np.abs(exact(name))))


def peer(solver, name):
    """Returns the evaluations of the peer, and its error."""
    method, per_step = PEERS[solver]
    if method is None:
        steps, y = detest.DIFFRAX_TSIT5[name]
        return per_step * steps + 2, error_of(name, np.array(y))
    solution = solve_with_scipy(detest.PROBLEMS[name], method, TOLERANCE)
    return solution.nfev, error_of(name, solution.y[:, -1])


def ours(solver, name):
    problem = detest.PROBLEMS[name]

    def dynamics(t, y):
        return tf.stack(problem.f(tf, t, tf.unstack(y)))

    @tf.function
    def solve():
        return keras_node.odeint(
            dynamics,
            tf.constant(problem.y0, tf.float64),
            (0.0, detest.END),
            solver=type(solvers.get(solver))(rtol=TOLERANCE, atol=TOLERANCE),
        )

    results = solve()
    evaluations = int(results.diagnostics.num_ode_fn_evaluations)
    return evaluations, error_of(name, results.states[-1].numpy())


@pytest.mark.parametrize("solver", PEERS)
def test_work_and_error_are_those_of_mature_solvers(solver):
    rows = []
    for name in detest.PROBLEMS:
        rows.append((name, *ours(solver, name), *peer(solver, name)))
        print("{} NFE {} error {:.1e} peer {} {:.1e}".format(*rows[-1]))
    names, work, error, peer_work, peer_error = zip(*rows, strict=True)
    work, peer_work = np.array(work), np.array(peer_work)
    error, peer_error = np.array(error), np.array(peer_error)
    assert work.sum() <= 1.1 * peer_work.sum()
    # Single problems vary: some take ten steps, of which one is 10 %, and in
    # some an error estimate is by chance small, and steps too long.
    most = 1.2 * peer_work + PEERS[solver][1]
    assert np.all(work <= most), np.array(names)[work > most]
    assert np.exp(np.mean(np.log(error / peer_error))) <= 1.5
    # At one time an error may pass through zero, the peer's too.
    large = np.maximum(3 * peer_error, 100 * TOLERANCE)
    assert np.all(error <= large), np.array(names)[error > large]
