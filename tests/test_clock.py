"""The clock: what times dynamics can tell apart."""

import warnings

import numpy as np
import pytest
import tensorflow as tf

from keras_node.solvers import requested_times

UNIX = 1_700_000_000.0


def check(times, dtype):
    """Returns whether the times are warned of."""
    times = tf.constant(np.transpose(times), tf.float64)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        requested_times.check_resolution(times, dtype)
    assert all(w.category is UserWarning for w in caught)
    assert all("Subtract the first time" in str(w.message) for w in caught)
    return bool(caught)


@pytest.mark.parametrize(
    ("times", "dtype"),
    [
        ((0.0, 1.0), "float32"),
        ((0.0, 1e-30), "float32"),
        ((-1e30, 1e30), "float32"),
        ((1000.0, 999.0), "float32"),
        ((UNIX, UNIX + 1.0), "float64"),
        ((0.0, 1.0), "bfloat16"),
        ((1.0, 2.0), "float16"),
        (((0.0, 1.0), (5.0, 5.0)), "float32"),
        (np.zeros([0, 2]), "float32"),
    ],
)
def test_times_that_dynamics_tell_apart_are_fine(times, dtype):
    assert not check(times, dtype)


@pytest.mark.parametrize(
    ("times", "dtype"),
    [
        ((1e6, 1e6 + 1.0), "float32"),
        ((1e6, 1e6 - 1.0), "float32"),
        ((UNIX, UNIX + 3600.0), "float32"),
        ((100.0, 101.0), "bfloat16"),
        (((0.0, 1.0), (1e6, 1e6 - 1.0)), "float32"),
    ],
)
def test_times_far_from_zero_are_warned_of(times, dtype):
    assert check(times, dtype)


@pytest.mark.parametrize(
    ("times", "dtype"),
    [
        ((UNIX, UNIX + 1.0), "float32"),
        (((0.0, 1.0), (UNIX, UNIX - 1.0)), "float32"),
    ],
)
def test_times_that_are_the_same_to_dynamics_give_a_warning(times, dtype):
    assert check(times, dtype)


def test_times_of_a_graph_are_not_checked():
    @tf.function
    def run(times):
        requested_times.check_resolution(times, tf.float32)
        return times

    run(tf.constant([UNIX, UNIX + 1.0], tf.float64))
