"""The noise that models draw."""

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf

from keras_node.common import random_numbers


def test_normal_noise_is_distributed_as_it_should_be():
    draws = random_numbers.normal([20_000], tf.constant([1, 2]), tf.float64)
    assert scipy.stats.kstest(draws, "norm").pvalue > 0.01
    assert abs(np.corrcoef(draws[:-1], draws[1:])[0, 1]) < 0.03


@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16])
def test_normal_noise_of_half_precision_is_that_of_single(dtype):
    shape, seed = [1_000], tf.constant([1, 2])
    expected = random_numbers.normal(shape, seed, tf.float32)
    actual = tf.cast(random_numbers.normal(shape, seed, dtype), tf.float32)
    np.testing.assert_allclose(actual, expected, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("dtype", [tf.float32, tf.float64])
def test_normal_noise_is_the_same_in_every_mode_of_execution(dtype):
    def draw(size, seed):
        return random_numbers.normal([size, 3], seed, dtype)

    arguments = tf.constant(40), tf.constant([1, 2])
    eager = draw(*arguments)
    for jit_compile in (False, True):
        compiled = tf.function(draw, jit_compile=jit_compile)
        np.testing.assert_allclose(compiled(*arguments), eager, atol=1e-5)
