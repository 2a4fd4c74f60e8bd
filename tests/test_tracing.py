"""Tests of dynamics traced to one pure function."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_node
from keras_node.dynamics import traced_field


def trace(dynamics, state=None, t_shape=()):
    return traced_field.trace(dynamics, t_shape, tf.ones([2]))


def test_python_runs_the_dynamics_once():
    calls = []

    def dynamics(t, y):
        calls.append(t)
        return -y

    field = trace(dynamics)
    for _ in range(3):
        field(tf.constant(0.0), [tf.ones([2])])
    assert len(calls) == 1


@pytest.mark.parametrize("make", [tf.Variable, keras.Variable])
def test_a_variable_is_read_once_and_becomes_a_capture(make):
    rate = make(2.0)
    field = trace(lambda t, y: -rate * y * rate)
    rate.assign(5.0)
    (slope,) = field(tf.constant(0.0), [tf.ones([2])])
    np.testing.assert_allclose(slope, [-4.0, -4.0])
    assert not field.variables
    assert all(c.dtype == tf.float32 for c in field.captures)


@pytest.mark.parametrize("is_read_first", [True, False])
def test_a_count_of_evaluations_goes_on(is_read_first):
    count = tf.Variable(0)

    def dynamics(t, y):
        if is_read_first:
            count.assign(count + 1)
        else:
            count.assign_add(1)
        return -y

    field = trace(dynamics)
    for _ in range(3):
        field(tf.constant(0.0), [tf.ones([2])])
    assert int(count) == 3 and not field.sources


def test_a_variable_of_an_inner_function_stays_one():
    rate = tf.Variable(2.0)
    inner = tf.function(lambda y: rate * y)
    for value in (3.0, 4.0):  # The inner function keeps no value.
        rate.assign(value)
        field = trace(lambda t, y: inner(y))
        assert [v.name for v in field.variables] == [rate.name]
        (slope,) = field(tf.constant(0.0), [tf.ones([2])])
        np.testing.assert_allclose(slope, [value, value])


@pytest.mark.parametrize("wrap", [lambda f: f, tf.function])
def test_layers_are_built_with_values(wrap):
    net = keras.Sequential([keras.layers.Dense(4, "tanh")])
    net.add(keras.layers.Dense(2))
    call = wrap(lambda y: net(y))
    field = trace(lambda t, y: call(y[None])[0])
    y = tf.constant([0.3, -0.4])
    (slope,) = field(tf.constant(0.0), [y])
    np.testing.assert_allclose(slope, net(y[None])[0], rtol=1e-5, atol=1e-6)


def test_sources_are_what_a_tape_watches():
    watched, constant = tf.constant([1.0, 2.0]), tf.constant([3.0, 4.0])
    number = tf.constant([1, 2])

    def dynamics(t, y):
        return watched * y + constant + tf.cast(number, y.dtype)

    assert not trace(dynamics).sources
    with tf.GradientTape() as tape:
        tape.watch(watched)
        (source,) = trace(dynamics).sources
    assert source is watched


def test_stopped_tensors_are_no_sources_in_a_graph():
    @tf.function
    def num_sources(x):
        stopped = tf.reshape(tf.stop_gradient(x), [2])
        constant = tf.constant([1.0, 2.0])
        return len(trace(lambda t, y: x * y + stopped + constant).sources)

    assert num_sources(tf.ones([2])) == 1


@pytest.mark.parametrize("size, expected", [(3, 1), (5000, 2)])
def test_a_large_constant_in_a_graph_is_a_part_of_its_own(size, expected):
    constant, rate = tf.ones([size]), tf.Variable(1.0)

    @tf.function
    def num_parts():
        field = trace(lambda t, y: rate * y * tf.reduce_sum(constant))
        parts = field.parts
        assert sum(len(part.sources) for part in parts) == len(field.sources)
        return len(parts)

    assert num_parts() == expected


def test_noise_in_dynamics_is_refused():
    seed = keras.random.SeedGenerator(0)
    with pytest.raises(ValueError, match="draw noise"):
        trace(lambda t, y: y + keras.random.normal((2,), seed=seed))


def test_a_python_condition_on_the_state_says_what_to_take():
    def dynamics(t, y):
        return -y if t < 0.5 else -2.0 * y

    with pytest.raises(tf.errors.OperatorNotAllowedInGraphError) as caught:
        keras_node.odeint(dynamics, tf.ones(1), (0.0, 1.0))
    assert "`tf.where`" in "".join(caught.value.__notes__)
