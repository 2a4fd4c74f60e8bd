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

    They are a changed weight or option, another graph, and, eagerly, another
    `tf.GradientTape`, which cannot differentiate what was computed before it.
    """

    def __init__(self):
        self._count = 0
        self._values = {}

    def current(self, weights, options):
        """Returns the current version, a hashable object.

        Args:
            weights: List of the variables that values depend on.
            options: List of objects whose attributes values depend on.
        """
        if not tf.executing_eagerly():
            return id(tf.compat.v1.get_default_graph())
        if _pins.versions is None:
            return self._find(weights, options)
        if id(self) not in _pins.versions:
            _pins.versions[id(self)] = self._find(weights, options)
        return _pins.versions[id(self)]

    def note(self, weights):
        """Notes variables that a solve has made or found: not as changed."""
        if tf.executing_eagerly():
            for weight in weights:
                if id(weight) not in self._values:
                    self._values[id(weight)] = _value_of(weight)

    def _find(self, weights, options):
        values = {id(weight): _value_of(weight) for weight in weights}
        values |= {
            id(option): (type(option), repr(vars(option))) for option in options
        }
        if not self._values.items() <= values.items():
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


def _value_of(weight):
    return hash(tf.convert_to_tensor(weight).numpy().tobytes())


class _Tapes(threading.local):
    """Counts the gradient tapes that it sees, separately in each thread.

    Only a single tape that watches a trainable weight, and is not persistent,
    can be told from another. Any other, and several, count as new at each
    look-up, so that nothing is found: `inverse` and its log-det both solve,
    unless the version is pinned.
    """

    def __init__(self):
        self._count = 0
        self._mark = None  # A tensor on the last tape seen.

    def count(self, weights):
        if tf_internals.are_recording() and not self._is_known(weights):
            self._count += 1
        return self._count

    def _is_known(self, weights):
        last, self._mark = self._mark, None
        trained = [weight for weight in weights if weight.trainable]
        if not trained:
            return False
        mark = tf.identity(trained[0])
        if tf_internals.may_want_higher_derivatives([mark]):
            return False
        is_known = last is not None and tf_internals.is_watched([last])
        self._mark = last if is_known else mark
        return is_known


_tapes = _Tapes()
