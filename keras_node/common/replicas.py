"""Noise that does not depend on how many replicas share a batch.

Under a `tf.distribute.Strategy` each replica draws for the rows of the whole
batch, from a seed that all of them have, and takes those that are its own: the
replicas' rows stand one behind the other.
"""

import tensorflow as tf


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
