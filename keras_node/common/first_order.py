"""Results that have first derivatives only."""

import tensorflow as tf

from keras_node.common import tf_internals


def first_order(tensors, reason):
    """Returns tensors whose second derivatives raise.

    Args:
        tensors: List of tensors.
        reason: String for messages, why there are none.

    Raises:
        NotImplementedError: When a derivative of their gradient is asked for.
    """

    @tf_internals.custom_gradient
    def identity(*tensors):
        def gradient(*bars):
            return _once(bars, reason)

        return tuple(map(tf.identity, tensors)), gradient

    return list(identity(*tensors))


def _once(bars, reason):
    @tf_internals.custom_gradient
    def identity(*bars):
        def second(*unused):
            raise NotImplementedError(reason)

        return tuple(map(tf.identity, bars)), second

    return identity(*bars)
