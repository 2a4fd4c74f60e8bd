"""Assertions: conditions that only a run can know, eagerly and in graphs."""

import tensorflow as tf

from keras_node.common import tf_internals


def require(condition, text, value):
    """Raises unless a condition holds, and returns it.

    Args:
        condition: Boolean scalar.
        text: String, the message.
        value: Tensor, shown at the end of the message.

    Raises:
        InvalidArgumentError: If it does not hold.
    """
    if tf.executing_eagerly():
        if not condition:
            raise_error(f"{text} {value.numpy()}")
        return condition

    def fail():
        # Not `False`: `tf.vectorized_map` runs both branches.
        assertion = tf.raw_ops.Assert(condition=condition, data=[text, value])
        with tf.control_dependencies([assertion]):
            return tf.constant(False)

    return tf.cond(condition, lambda: True, fail)


def can_raise():
    """Whether an assertion has an effect.

    XLA drops assertions, but would compile what they print.
    """
    return not tf_internals.in_xla()


def raise_error(text):
    """Raises the error of a graph, without the words of its assertion."""
    raise tf.errors.InvalidArgumentError(None, None, text)
