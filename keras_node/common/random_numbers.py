"""Noise that does not depend on how many replicas share a batch.

Under a `tf.distribute.Strategy` each replica draws for the rows of the whole
batch, from a seed that all of them have, and takes those that are its own: the
replicas' rows stand one behind the other.
"""

import keras
import numpy as np
import tensorflow as tf

from keras_node.common.state import solved_dtype


def num_rows(size):
    """Returns the rows of all replicas, each with as many as this one."""
    context = tf.distribute.get_replica_context()
    return size if context is None else context.num_replicas_in_sync * size


def own_rows(rows, size, axis=0):
    """Returns this replica's part of what was drawn for all.

    Args:
        rows: Tensor with the rows of all replicas along an axis.
        size: Integer tensor, how many are this one's.
        axis: Integer. Default 0.
    """
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return rows
    first = context.replica_id_in_sync_group * size
    return tf.gather(rows, first + tf.range(size), axis=axis)


def sample(draw, size, seed):
    """Draws independent noise for this replica's rows.

    Args:
        draw: Callable of the number of rows and a seed, two integers, that
            returns a tensor with a row for each.
        size: Integer tensor, the number of this replica's rows.
        seed: Integer tensor of shape `(2,)`, the same on all replicas.
    """
    total = num_rows(size)
    # The last shares of an epoch may differ in size, and their rows would
    # overlap: those of different sizes have streams of their own.
    seed = tf.random.fold_in(seed, total, alg="philox")
    return own_rows(draw(total, seed), size)


class Seeds(keras.layers.Layer):
    """A `keras.random.SeedGenerator` that is saved with its model.

    Keras saves the weights of layers, not the state of generators: training
    that goes on from a file would see other noise than it would have without.

    Args:
        seed: Integer to begin with, or `None` (default) to draw one.
    """

    def __init__(self, seed=None, **kwargs):
        super().__init__(**kwargs)
        self.generator = keras.random.SeedGenerator(seed)
        self.built = True

    def next(self):
        """Returns the next seed, integers `(2,)`."""
        return self.generator.next()

    def save_own_variables(self, store):
        store["state"] = keras.ops.convert_to_numpy(self.generator.state)

    def load_own_variables(self, store):
        # Files of earlier versions have none: the one that was drawn stays.
        if "state" in store.keys():
            self.generator.state.assign(store["state"])


def normal(shape, seed, dtype):
    """Returns standard normal noise, the same ones under XLA.

    Of TensorFlow's random numbers XLA makes the integers alike, but neither
    the uniform nor the normal ones; two integers of 24 bits make a normal
    one, none of which exceeds 5.9.

    Args:
        shape: Integer tensor.
        seed: Integer tensor of shape `(2,)`.
        dtype: Float dtype.

    Reference:
    - [Box & Muller, 1958](https://doi.org/10.1214/aoms/1177706645)
    """
    bits = tf.random.stateless_uniform(
        tf.concat([[2], shape], axis=0),
        seed,
        minval=0,
        maxval=2**24,
        dtype=tf.int32,
        alg="philox",
    )
    bits = tf.cast(bits, solved_dtype(tf.as_dtype(dtype)))
    u, v = tf.unstack((bits + 0.5) / 2**24)
    draws = tf.sqrt(-2.0 * tf.math.log(u)) * tf.cos(2.0 * np.pi * v)
    return tf.cast(draws, dtype)
