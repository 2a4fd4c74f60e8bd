"""Cache versions: when tfp must forget what a bijector computed.

tfp's caches identify a value by its input tensor and its bijector, and keep it
while the result is alive. They do not notice that weights have changed, or that
a gradient is wanted.
"""

import contextlib
import threading

import tensorflow as tf

from keras_node.common import tf_internals


class CacheVersion:
    """Counts the changes after which a cached value is no longer valid.

    They are a changed weight, another graph, and, eagerly, another
    `tf.GradientTape`, which cannot differentiate what was computed before it.
    """

    def __init__(self):
        self._count = 0
        self._values = None

    def current(self, weights):
        """Returns the current version, a hashable object.

        Args:
            weights: List of the variables that values depend on; empty until
                they are made, which does not count as a change.
        """
        if not tf.executing_eagerly():
            return id(tf.compat.v1.get_default_graph())
        if _pins.versions is None:
            return self._find(weights)
        if id(self) not in _pins.versions:
            _pins.versions[id(self)] = self._find(weights)
        return _pins.versions[id(self)]

    def _find(self, weights):
        values = _hash_of(weights) if weights else None
        if self._values not in (None, values):
            self._count += 1
        self._values = values
        return self._count, _tapes.count(weights)


@contextlib.contextmanager
def pinned():
    """Finds each version only once during one call.

    Finding one copies all weights, and a call asks for it ten times.
    """
    outer = _pins.versions
    if outer is None:
        _pins.versions = {}
    try:
        yield
    finally:
        _pins.versions = outer


class _Pins(threading.local):
    versions = None


_pins = _Pins()


def _hash_of(weights):
    values = [tf.convert_to_tensor(weight).numpy() for weight in weights]
    return hash(b"".join(value.tobytes() for value in values))


class _Tapes(threading.local):
    """Counts the gradient tapes that it sees, separately in each thread.

    A tape that does not watch the weights counts as new at each call.
    """

    def __init__(self):
        self._count = 0
        self._mark = None  # A tensor on the last tape seen.

    def count(self, weights):
        trained = [weight for weight in weights if weight.trainable]
        if not trained or not tf_internals.are_recording():
            return self._count
        if self._mark is None or not tf_internals.is_watched([self._mark]):
            self._mark = tf.identity(trained[0])
            self._count += 1
        return self._count


_tapes = _Tapes()
