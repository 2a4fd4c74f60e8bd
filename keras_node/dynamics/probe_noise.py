"""The noise of estimates, drawn once for a solve.

It is a function of a seed, of the weights of the dynamics and of the state's
shape: a solve and its inverse share it, the result is a deterministic function
while the weights stay, and each step of training sees new noise.
"""

import random

import tensorflow as tf

from keras_node.common import random_numbers
from keras_node.common.arguments import as_int32
from keras_node.dynamics import tracing

DISTRIBUTIONS = ("rademacher", "gaussian")
_MAX_SEED = 2**31 - 1
_INTEGERS = {2: tf.int16, 4: tf.int32, 8: tf.int64}


def as_seed(seed):
    """Returns an integer; one that `set_random_seed` decides for `None`.

    Raises:
        TypeError: If it is something else.
        ValueError: If it has more than 32 bits.
    """
    if seed is None:
        return random.randint(0, _MAX_SEED)
    return as_int32(seed, "seed")


def key_of(ode_fn, t_shape, y):
    """Returns an integer that changes whenever a weight of dynamics does.

    Args:
        ode_fn: Callable `(t, y) -> dy/dt`.
        t_shape: Shape of the time, `()` or `(batch,)`.
        y: Float tensor, the state, or a nested structure.
    """
    total = tf.zeros([], tf.int32)
    for weight in tracing.trace(ode_fn, t_shape, y).floats:
        total += tf.reduce_sum(_bits(tf.stop_gradient(weight)))
    return total


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
    """Casts noise to integers of the same bits.

    Dynamics may close over them at no cost: they need no gradient, so that an
    adjoint carries none.
    """
    return tf.nest.map_structure(
        lambda leaf: tf.bitcast(leaf, _INTEGERS[leaf.dtype.size]), probes
    )


def thaw(bits, y):
    """Returns what `freeze` was given, in the dtypes of the state `y`."""
    if bits is None:
        return None
    return tf.nest.map_structure(
        lambda leaf, state: tf.bitcast(leaf, state.dtype), bits, y
    )


def _bits(weight):
    """Returns all bits of a float tensor, as int32."""
    weight = tf.convert_to_tensor(weight)
    # A number of eight bytes becomes two integers.
    integer = tf.int16 if weight.dtype.size == 2 else tf.int32
    return tf.cast(tf.bitcast(weight, integer), tf.int32)
