"""Seeds that are saved, normal numbers, and noise shared by replicas.

Under a `tf.distribute.Strategy` each replica draws noise for the whole batch,
from a seed that all replicas share, and takes its own rows: the rows of the
first replica come first, then those of the second, and so on. So the noise of
a row does not depend on the number of replicas.
"""

import keras
import numpy as np
import tensorflow as tf

from keras_node.common.state import solved_dtype


def num_rows(size):
    """Returns the number of rows on all replicas, if each has `size`."""
    context = tf.distribute.get_replica_context()
    return size if context is None else context.num_replicas_in_sync * size


def own_rows(rows, size, axis=0):
    """Returns this replica's rows of what was drawn for all.

    Args:
        rows: Tensor with the rows of all replicas along an axis.
        size: Integer tensor, the number of this replica's rows.
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
        draw: Callable `(num_rows, seed)`, the seed being two integers, that
            returns a tensor with `num_rows` rows.
        size: Integer tensor, the number of this replica's rows.
        seed: Integer tensor of shape `(2,)`, the same on all replicas.
    """
    total = num_rows(size)
    # The replicas' last batches of an epoch may differ in size, and their rows
    # would overlap: each total has its own stream.
    seed = tf.random.fold_in(seed, total, alg="philox")
    return own_rows(draw(total, seed), size)


class Seeds(keras.layers.Layer):
    """A `keras.random.SeedGenerator` that is saved with its model.

    Keras saves the weights of layers but not the state of generators: training
    resumed from a file would otherwise see different noise.

    Args:
        seed: Initial integer, or `None` (default) to draw one.
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
        # Files of earlier versions have no state: keep the one drawn here.
        if "state" in store.keys():
            self.generator.state.assign(store["state"])


def normal(shape, seed, dtype):
    """Returns standard normal noise, the same with and without XLA.

    XLA reproduces TensorFlow's random integers, but not its uniform or normal
    floats. Each normal number is made from two integers of 24 bits, so none
    exceeds 5.9 in size.

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
