"""Trace estimators against the trace of a Jacobian."""

import numpy as np
import pytest
import tensorflow as tf

from keras_node import trace
from keras_node.dynamics.linearization import Linearization
from keras_node.trace import ExactTrace, Hutchinson, HutchPlusPlus

_MATRIX = np.random.default_rng(0).normal(size=(4, 4))
_TRACE = float(np.trace(_MATRIX))


def _linear(t, y):
    return tf.linalg.matvec(tf.constant(_MATRIX, y.dtype), y)


def _field(t, y):
    return tf.sin(_linear(t, y)) * y


def _estimate(estimator, ode_fn, batch, key=0):
    y = tf.ones((batch, 4), tf.float64) * 0.3
    probes = estimator.sample_probes(y, tf.constant(key))
    linearization = Linearization(ode_fn, 0.0, y, probes)
    return estimator.divergence(linearization).numpy()


def test_exact_trace_is_that_of_the_jacobian():
    y = tf.random.stateless_normal((5, 4), (0, 1), dtype=tf.float64)
    with tf.GradientTape() as tape:
        tape.watch(y)
        f = _field(0.0, y)
    expected = tf.linalg.trace(tape.batch_jacobian(f, y))
    actual = ExactTrace().divergence(Linearization(_field, 0.0, y))
    np.testing.assert_allclose(actual, expected, rtol=1e-12)


@pytest.mark.parametrize("rank", [2, 3])
def test_exact_trace_sums_over_every_axis_of_the_event(rank):
    y = tf.ones((3, 2, 2, 2)[: rank + 1], tf.float64)
    linearization = Linearization(lambda t, y: y**2, 0.0, y)
    actual = ExactTrace().divergence(linearization)
    np.testing.assert_allclose(actual, np.full(3, 2.0 * 2**rank))


@pytest.mark.parametrize("distribution", ["rademacher", "gaussian"])
@pytest.mark.parametrize("estimator_class", [Hutchinson, HutchPlusPlus])
def test_estimates_are_unbiased(estimator_class, distribution):
    estimator = estimator_class(distribution=distribution, seed=1)
    draws = _estimate(estimator, _linear, 2000)
    standard_error = draws.std() / np.sqrt(len(draws))
    assert standard_error > 0
    assert abs(draws.mean() - _TRACE) < 4 * standard_error


def test_variance_falls_with_the_number_of_probes():
    variances = [
        _estimate(Hutchinson(num_probes, seed=2), _linear, 2000).var()
        for num_probes in (1, 4, 16)
    ]
    np.testing.assert_allclose(
        variances, variances[0] / np.array([1, 4, 16]), rtol=0.2
    )


def test_hutch_plus_plus_is_exact_with_as_many_probes_as_dimensions():
    draws = _estimate(HutchPlusPlus(num_probes=4, seed=3), _linear, 10)
    np.testing.assert_allclose(draws, _TRACE, rtol=1e-10)


def test_noise_is_a_function_of_seed_and_key():
    estimator = Hutchinson(seed=4)
    first = _estimate(estimator, _linear, 50)
    np.testing.assert_array_equal(first, _estimate(estimator, _linear, 50))
    assert (first != _estimate(estimator, _linear, 50, key=1)).any()
    assert (first != _estimate(Hutchinson(seed=5), _linear, 50)).any()


@pytest.mark.parametrize("name", ["exact", "hutchinson", "hutch++"])
def test_an_estimator_comes_back_from_its_config(name):
    estimator = trace.get(name)
    copy = trace.get(trace.serialize(estimator))
    assert type(copy) is type(estimator)
    assert copy.get_config() == estimator.get_config()


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="`trace` must be one of"):
        trace.get("hutchison")
    with pytest.raises(TypeError, match=r"Write `Hutchinson\(\)`"):
        trace.get(Hutchinson)
    with pytest.raises(ValueError, match="`num_probes` must be"):
        Hutchinson(num_probes=0)
    with pytest.raises(ValueError, match="`distribution` must be"):
        Hutchinson(distribution="uniform")
