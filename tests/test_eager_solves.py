"""Tests of eager solves, which run as kept graphs."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_node
from keras_node.adjoints import CheckpointAdjoint
from keras_node.integration import eager_solve_graphs
from keras_node.solvers import Tsit5


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch):
    monkeypatch.setattr(eager_solve_graphs, "_kept", eager_solve_graphs._Kept())


@pytest.fixture
def solves(monkeypatch):
    """The solves that Python made, eagerly or in a graph."""
    made, solve = [], CheckpointAdjoint.solve

    def counted(self, problem):
        made.append("eager" if tf.executing_eagerly() else "graph")
        return solve(self, problem)

    monkeypatch.setattr(CheckpointAdjoint, "solve", counted)
    return made


def end(dynamics, y0, adjoint="checkpoint", **kwargs):
    results = keras_node.odeint(
        dynamics, y0, (0.0, 1.0), adjoint=adjoint, **kwargs
    )
    return results.states[-1]


def slope(dynamics, y0, source, adjoint="checkpoint"):
    with tf.GradientTape() as tape:
        tape.watch(source)
        value = end(dynamics, y0, adjoint)
    return tape.gradient(value, source)


def test_a_solve_without_gradient_is_a_graph_from_the_first_on(solves):
    for _ in range(3):
        end(lambda t, y: -y, tf.ones([2]))
    assert solves == ["graph"]


def test_a_solve_with_gradient_is_a_graph_from_the_second_on(solves):
    rate = tf.constant(0.7)
    slopes = [slope(lambda t, y: -rate * y, tf.ones([]), rate) for _ in "abcd"]
    assert solves == ["eager", "graph"]
    # A graph rounds otherwise.
    np.testing.assert_allclose(slopes, slopes[0], rtol=1e-5)
    np.testing.assert_allclose(slopes[0], -np.exp(-0.7), rtol=1e-3)


def test_a_graph_is_never_that_of_stale_dynamics():
    settings = {"rate": 1.0}
    layer = keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")
    layer.build((None, 1))

    def dynamics(t, y):
        return -settings["rate"] * layer(y[None, None])[0, 0]

    for rate, weight in ((1.0, 1.0), (2.0, 1.0), (2.0, 0.5), (1.0, 1.0)):
        settings["rate"] = rate
        layer.kernel.assign([[weight]])
        for _ in range(2):
            y0 = tf.constant(1.0)
            np.testing.assert_allclose(
                slope(dynamics, y0, y0), np.exp(-rate * weight), rtol=1e-3
            )


def test_another_solver_is_another_graph(solves):
    tight = Tsit5(rtol=1e-6)
    for _ in range(2):
        loose = end(lambda t, y: -y, tf.ones([]))
        close = end(lambda t, y: -y, tf.ones([]), solver=tight)
    assert solves == ["graph", "graph"]
    assert abs(close - np.exp(-1.0)) < 0.1 * abs(loose - np.exp(-1.0))
    tight.rtol = 1e-3  # A graph is not that of an option that has changed.
    changed = end(lambda t, y: -y, tf.ones([]), solver=tight)
    np.testing.assert_array_equal(changed, loose)


def test_a_tolerance_that_is_a_variable_may_be_assigned():
    # One that is copied with the solver would stay what it was.
    solver = Tsit5()
    solver.rtol, solver.atol = tf.Variable(1e-2), tf.Variable(1e-5)
    loose = end(lambda t, y: -y, tf.constant(1.0), solver=solver)
    solver.rtol.assign(1e-6)
    solver.atol.assign(1e-9)
    tight = end(lambda t, y: -y, tf.constant(1.0), solver=solver)
    assert abs(tight - np.exp(-1.0)) < 0.1 * abs(loose - np.exp(-1.0))


@pytest.mark.slow
def test_the_number_of_graphs_is_bounded():
    for rate in range(eager_solve_graphs._MAX_KEPT + 3):
        end(lambda t, y, rate=rate: -float(rate) * y, tf.ones([]))
    assert (
        len(eager_solve_graphs._kept._functions) == eager_solve_graphs._MAX_KEPT
    )


def test_a_graph_that_fails_says_what_an_eager_solve_says():
    for _ in range(3):
        y0 = tf.constant(1.0)
        with pytest.raises(tf.errors.InvalidArgumentError, match="not finite"):
            slope(lambda t, y: tf.exp(40.0 * y * y), y0, y0)


@pytest.mark.parametrize("adjoint", ["checkpoint", "backsolve"])
def test_under_two_tapes_first_derivatives_are_given(adjoint):
    # What all evaluations share, here `-rate`, must not depend on the state.
    rate = tf.constant(0.7)
    for _ in range(3):
        with tf.GradientTape() as outer:
            outer.watch(rate)
            first = slope(
                lambda t, y: -rate * y, tf.constant(2.0), rate, adjoint
            )
        np.testing.assert_allclose(first, -2.0 * np.exp(-0.7), rtol=1e-3)
        with pytest.raises(NotImplementedError, match="first derivatives"):
            outer.gradient(first, rate)


def test_metrics_of_a_layer_count_what_a_graph_did():
    layer = keras_node.ODELayer(
        keras.layers.Dense(2, "tanh"),
        adjoint=keras_node.adjoints.CheckpointAdjoint(memory_limit=0),
        name="ode",
    )
    counts = []
    for _ in range(3):
        for metric in layer.metrics:
            metric.reset_state()
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(layer(tf.ones([3, 2])))
        tape.gradient(loss, layer.trainable_variables)
        counts.append([float(m.result()) for m in layer.metrics])
    assert counts[0] == counts[1] == counts[2]
    assert min(counts[0]) > 0


def test_python_runs_at_each_evaluation_when_functions_run_eagerly():
    seen = []

    def dynamics(t, y):
        seen.append(hasattr(y, "numpy"))
        return -y

    y0 = tf.constant(1.0)
    tf.config.run_functions_eagerly(True)
    try:
        value = slope(dynamics, y0, y0)
    finally:
        tf.config.run_functions_eagerly(False)
    assert len(seen) > 10 and all(seen)
    np.testing.assert_allclose(value, np.exp(-1.0), rtol=1e-3)
