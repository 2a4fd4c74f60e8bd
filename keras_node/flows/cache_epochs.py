"""How long tfp's caches may hold what a bijector computed.

They know a value by the tensor and the bijector it came of, and hold it as long
as the result is alive; that weights change, or that a gradient is wanted, they
do not see.
"""

import threading

import tensorflow as tf
from tensorflow.python.eager import record  # No public way to ask for a tape.


class Epochs:
    """Counts the changes after which a remembered value has to go.

    They are the change of a weight, another graph, and, eagerly, another
    `tf.GradientTape`, which cannot differentiate what was computed before it.
    """

    def __init__(self):
        self._count = 0
        self._values = None

    def current(self, weights):
        """Returns a hashable.

        Args:
            weights: List of the variables that values depend on; empty while
                they are not made, which is no change of them.
        """
        if not tf.executing_eagerly():
            return id(tf.compat.v1.get_default_graph())
        values = _hash_of(weights) if weights else None
        if self._values not in (None, values):
            self._count += 1
        self._values = values
        return self._count, _tapes.count(weights)


def _hash_of(weights):
    values = [tf.convert_to_tensor(weight).numpy() for weight in weights]
    return hash(b"".join(value.tobytes() for value in values))


class _Tapes(threading.local):
    """Counts the tapes that it sees, each thread those of its own."""

    def __init__(self):
        self._count = 0
        self._mark = None  # A tensor on the last tape seen.

    def count(self, weights):
        trained = [weight for weight in weights if weight.trainable]
        if not trained or not record.could_possibly_record():
            return self._count
        if self._mark is None or not record.should_record_backprop(
            [self._mark]
        ):
            self._mark = tf.identity(trained[0])
            self._count += 1
        return self._count


_tapes = _Tapes()
