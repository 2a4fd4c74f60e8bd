"""Graphs of solves are freed with the function that they were traced for."""

import gc
import weakref

import pytest
import tensorflow as tf

import keras_node


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("adjoint", ["checkpoint", "backsolve", "direct"])
def test_a_graph_with_its_gradient_is_freed(adjoint, jit_compile):
    y0 = tf.constant([[1.0, 2.0]])
    graphs = []

    @tf.function(jit_compile=jit_compile)
    def gradient():
        graphs.append(weakref.ref(tf.compat.v1.get_default_graph()))
        with tf.GradientTape() as tape:
            tape.watch(y0)
            results = keras_node.odeint(
                lambda t, y: -y, y0, (0.0, 1.0), adjoint=adjoint
            )
            loss = tf.reduce_sum(results.states)
        return tape.gradient(loss, y0)

    gradient()
    assert graphs[0]() is not None
    del gradient
    gc.collect()
    assert graphs[0]() is None


def test_a_gradient_outlives_the_function_that_traced_it():
    y0 = tf.constant([[1.0, 2.0]])

    def concrete():
        @tf.function
        def solve(y0):
            return keras_node.odeint(lambda t, y: -y, y0, (0.0, 1.0)).states[-1]

        return solve.get_concrete_function(y0)

    solve = concrete()
    gc.collect()
    with tf.GradientTape() as tape:
        tape.watch(y0)
        loss = tf.reduce_sum(solve(y0))
    gradient = tape.gradient(loss, y0)
    tf.debugging.assert_near(gradient, tf.exp(-tf.ones_like(y0)), rtol=1e-3)
