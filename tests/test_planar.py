"""PlanarDynamics: its divergence, gates, and configs."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_node
from keras_node.dynamics.linearization import Linearization
from keras_node.trace import ExactTrace

_FIELDS = pytest.mark.parametrize("hypernetwork", [False, True])
_TIMES = [0.7, np.linspace(0.0, 2.0, 5)]


def _points():
    return tf.random.stateless_normal((5, 3), (1, 2), dtype=tf.float64)


@_FIELDS
@pytest.mark.parametrize("t", _TIMES, ids=["shared", "per_sample"])
def test_divergence_is_the_trace_of_the_jacobian(hypernetwork, t):
    keras.utils.set_random_seed(0)
    field = keras_node.PlanarDynamics(4, hypernetwork, dtype="float64")
    t, y = tf.constant(t, tf.float64), _points()
    expected = ExactTrace().divergence(Linearization(field, t, y))
    assert np.abs(expected).max() > 1e-2
    np.testing.assert_allclose(field.divergence(t, y), expected, rtol=1e-10)


@_FIELDS
def test_a_batch_of_times_is_each_time_by_itself(hypernetwork):
    keras.utils.set_random_seed(0)
    field = keras_node.PlanarDynamics(4, hypernetwork, dtype="float64")
    times, y = tf.constant(_TIMES[1], tf.float64), _points()
    together = field(times, y)
    for i in range(5):
        alone = field(times[i], y[i : i + 1])
        np.testing.assert_allclose(alone[0], together[i], rtol=1e-12)
    assert np.abs(together - field(times[0], y)).max() > 1e-3


@_FIELDS
def test_planes_start_where_tanh_is_not_linear(hypernetwork):
    keras.utils.set_random_seed(0)
    field = keras_node.PlanarDynamics(32, hypernetwork, dtype="float64")
    t, y = tf.constant(0.0, tf.float64), _points()
    once, twice = field(t, y), field(t, 2 * y)
    bend = tf.norm(twice - 2 * once) / tf.norm(once)
    assert 0.1 < bend < 10


def test_a_flow_takes_the_closed_form():
    keras.utils.set_random_seed(0)
    field = keras_node.PlanarDynamics(4, dtype="float64")
    flow = keras_node.CNFBijector(field)
    log_det = flow.forward_log_det_jacobian(_points())
    by_products = keras_node.CNFBijector(lambda t, y: field(t, y))
    np.testing.assert_allclose(
        log_det, by_products.forward_log_det_jacobian(_points()), atol=1e-10
    )
    assert len(flow.trainable_variables) == 5


@_FIELDS
def test_it_comes_back_from_its_config(hypernetwork):
    field = keras_node.PlanarDynamics(4, hypernetwork, hidden_units=8)
    copy = keras_node.PlanarDynamics.from_config(field.get_config())
    assert copy.get_config() == field.get_config()


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="`units` must be"):
        keras_node.PlanarDynamics(0)
    with pytest.raises(ValueError, match="`hidden_units` must be"):
        keras_node.PlanarDynamics(2, hidden_units=1.5)
    with pytest.raises(ValueError, match="a state of shape"):
        keras_node.PlanarDynamics(2)(tf.constant(0.0), tf.zeros((3, 2, 2)))


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("hypernetwork", [False, True])
def test_divergence_works_in_mixed_precision(policy, hypernetwork):
    field = keras_node.PlanarDynamics(3, hypernetwork, dtype=policy)
    flow = keras_node.CNFBijector(field, solver="rk4")
    y = flow.forward(tf.ones((4, 2)))
    assert y.dtype == tf.float32 and np.all(np.isfinite(y))
