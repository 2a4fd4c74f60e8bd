"""The noise of trace estimates (probes), drawn once for each solve.

It is a function of a seed, a key and the state's shape. The key is new in each
step of training, and constant otherwise: there a solve and its inverse share
their noise, and results are deterministic.
"""

import random

import tensorflow as tf

from keras_node.common import random_numbers, tf_internals
from keras_node.common.arguments import as_int32

DISTRIBUTIONS = ("rademacher", "gaussian")
_MAX_SEED = 2**31 - 1
_INTEGERS = {2: tf.int16, 4: tf.int32, 8: tf.int64}


def as_seed(seed):
    """Returns a seed; a random one, fixed by `set_random_seed`, for `None`.

    Raises:
        TypeError: If it is neither an integer nor `None`.
        ValueError: If it does not fit in 32 bits.
    """
    if seed is None:
        return random.randint(0, _MAX_SEED)
    return as_int32(seed, "seed")


def key_of(seeds, training, weights):
    """Returns the integer key with which the noise of one solve is drawn.

    In training each solve has a new one; otherwise it is 0, so that all solves
    share their noise and results are deterministic.

    Args:
        seeds: `Seeds` of the layer that solves; with `None` the key is 0.
        training: Boolean; or `None` outside Keras's own loops, which counts as
            training if a tape watches the weights.
        weights: List of the trainable Keras variables of the dynamics.
    """
    if seeds is None:
        return tf.zeros([], tf.int32)
    if training is None:
        training = are_watched(weights)
    if not training:
        return tf.zeros([], tf.int32)
    return tf.reduce_sum(tf.cast(seeds.next(), tf.int32))


def are_watched(weights):
    """Whether a tape watches any of these variables."""
    return tf_internals.is_watched(
        [tf.convert_to_tensor(weight) for weight in weights]
    )


def sample_like(y, count, distribution, seed, key):
    """Returns independent noise of mean 0 and variance 1, `(count, *y.shape)`.

    Args:
        y: Float tensor, the state.
        count: Integer.
        distribution: `"rademacher"` or `"gaussian"`.
        seed: Integer.
        key: Integer tensor, mixed into the seed.
    """
    size = tf.shape(y)[0]
    shape = [[count, random_numbers.num_rows(size)], tf.shape(y)[1:]]
    shape = tf.concat(shape, axis=0)
    seed = tf.stack([tf.constant(seed, tf.int32), key])
    if distribution == "gaussian":
        noise = random_numbers.normal(shape, seed, y.dtype)
    else:
        bits = tf.random.stateless_uniform(
            shape, seed, maxval=2, dtype=tf.int32, minval=0, alg="philox"
        )
        noise = tf.cast(2 * bits - 1, y.dtype)
    noise = random_numbers.own_rows(noise, size, axis=1)
    return tf.ensure_shape(noise, [count, *y.shape])


def freeze(probes):
    """Casts noise to integers with the same bits.

    Dynamics may close over integers at no cost: they need no gradient, so an
    adjoint carries none for them.
    """
    return tf.nest.map_structure(
        lambda leaf: tf.bitcast(leaf, _INTEGERS[leaf.dtype.size]), probes
    )


def thaw(bits, y):
    """Undoes `freeze`: returns the noise in the dtypes of the state `y`."""
    if bits is None:
        return None
    return tf.nest.map_structure(
        lambda leaf, state: tf.bitcast(leaf, state.dtype), bits, y
    )
