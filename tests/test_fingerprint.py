"""Tests of the signatures of traced functions."""

import pytest
import tensorflow as tf

from keras_node.dynamics import traced_field
from keras_node.integration.field_signature import signature_of


def signature(dynamics):
    return signature_of(traced_field.trace(dynamics, (), tf.ones([2])).function)


def scaled_gradient(factor):
    @tf.custom_gradient
    def identity(x):
        return tf.identity(x), lambda dx: factor * dx

    return identity


DYNAMICS = {
    "linear": lambda t, y: -2.0 * y,
    "branch": lambda t, y: tf.cond(t > 0.5, lambda: y, lambda: -y),
    "loop": lambda t, y: tf.while_loop(
        lambda i, y: i < 3, lambda i, y: (i + 1, 2.0 * y), (0, y)
    )[1],
    "silu": lambda t, y: tf.nn.silu(y),
    "custom gradient": lambda t, y: scaled_gradient(2.0)(y),
}


@pytest.mark.parametrize("name", DYNAMICS)
def test_two_traces_of_the_same_dynamics_are_equal(name):
    first, second = signature(DYNAMICS[name]), signature(DYNAMICS[name])
    assert first == second and hash(first) == hash(second)


def test_all_dynamics_differ():
    assert len({signature(f) for f in DYNAMICS.values()}) == len(DYNAMICS)


def test_a_number_of_python_is_part_of_the_signature():
    signatures = [
        signature(lambda t, y, rate=rate: -rate * y) for rate in (1.0, 2.0)
    ]
    assert signatures[0] != signatures[1]


@pytest.mark.parametrize("make", [tf.constant, tf.Variable])
def test_values_of_tensors_are_not(make):
    # TensorFlow writes small ones into the graph.
    values = [make([1.0, 2.0]), make([3.0, 4.0])]
    first, second = [signature(lambda t, y, v=v: v * y) for v in values]
    assert first == second


def test_a_gradient_made_by_python_is():
    # The functions are equal, their gradients are not.
    first, second = [
        signature(lambda t, y, f=factor: scaled_gradient(f)(y))
        for factor in (2.0, 3.0)
    ]
    assert first != second


def test_what_calls_python_when_it_runs_has_none():
    def dynamics(t, y):
        return tf.ensure_shape(tf.py_function(lambda y: -y, [y], y.dtype), [2])

    assert signature(dynamics) is None
