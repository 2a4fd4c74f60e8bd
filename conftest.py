"""What the examples in the docstrings of `keras_node` find when they run."""

import keras
import matplotlib
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import keras_node


@pytest.fixture(autouse=True)
def names_and_seed_of_an_example(request, doctest_namespace):
    """Gives an example the usual names, one seed, and plots without a window.

    Tests, which find this file too, get nothing of it.
    """
    if isinstance(request.node, pytest.DoctestItem):
        doctest_namespace.update(
            keras=keras, keras_node=keras_node, np=np, tf=tf, tfp=tfp
        )
        matplotlib.use("Agg")
        keras.utils.set_random_seed(0)
