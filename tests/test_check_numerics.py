"""Healthy solves have no NaN anywhere on the way."""

import numpy as np
import pytest
import tensorflow as tf

import keras_node
from keras_node import solvers

OPTIONS = {
    "tsit5": {},
    "dopri8": {},
    "bosh3": {"per_sample_steps": True},
    "rk4": {"step_size": 0.2},
    "dormand_prince": {},
}


@pytest.fixture
def checked():
    """Lets TensorFlow look for NaN in the result of every operation."""
    tf.debugging.enable_check_numerics()
    yield
    tf.debugging.disable_check_numerics()


def decays(t, y):
    return -y


def solved(name, y0, times, on_failure="raise", dynamics=decays):
    solver = type(solvers.get(name))(**OPTIONS[name], on_failure=on_failure)
    return keras_node.odeint(dynamics, y0, times, solver=solver)


ROWS = (0.0, 0.1, 0.2, 0.9, 1.0)
CASES = [
    ("bosh3", ROWS, False),
    ("tsit5", (0.0, 1.0), True),
    *((name, ROWS, True) for name in OPTIONS if name != "dopri8"),
]


@pytest.mark.parametrize(("name", "times", "in_graph"), CASES)
def test_a_healthy_solve_and_its_gradient_pass(checked, name, times, in_graph):
    # A row at rest has neither derivative nor error.
    y0 = tf.constant([[1.0, -2.0], [0.0, 0.0]])

    def gradient(y0):
        with tf.GradientTape() as tape:
            tape.watch(y0)
            y1 = solved(name, y0, times).states[-1]
        return tape.gradient(y1, y0)

    found = (tf.function(gradient) if in_graph else gradient)(y0)
    np.testing.assert_allclose(found[0], [np.exp(-1.0)] * 2, rtol=1e-2)


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("name", OPTIONS)
def test_failure_is_nan_from_where_it_is(name, jit_compile):
    def breaks(t, y):
        return tf.where(t > 0.5, float("nan"), -1.0) * y

    times = (0.0, 0.2, 0.8, 1.0)
    if name == "bosh3":
        breaks, dynamics = None, breaks

        def breaks(t, y):
            return dynamics(t[:, None], y)

    @tf.function(jit_compile=jit_compile)
    def solve(y0):
        return solved(name, y0, times, "nan", breaks).states

    states = solve(tf.ones([2, 2]))
    assert np.isnan(states[2:]).all()
    # tfp's writes a time when it is well past it, which it never is here.
    if name != "dormand_prince":
        np.testing.assert_allclose(states[1], [[np.exp(-0.2)] * 2] * 2, 1e-2)


def constants_of(function):
    """Yields the constants of a concrete function and of those in it."""
    graph = function.graph.as_graph_def()
    nodes = [*graph.node]
    for inner in graph.library.function:
        nodes.extend(inner.node_def)
    for node in nodes:
        if node.op == "Const":
            yield tf.make_ndarray(node.attr["value"].tensor)


@pytest.mark.parametrize("name", OPTIONS)
def test_no_constant_of_a_graph_is_nan(name):
    function = tf.function(
        lambda y0: solved(name, y0, (0.0, 0.5, 1.0)).states
    ).get_concrete_function(tf.TensorSpec([2, 2]))
    values = [v for v in constants_of(function) if v.dtype.kind == "f"]
    assert values
    assert not any(np.isnan(value).any() for value in values)
