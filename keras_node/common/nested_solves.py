"""A mark on dynamics that a solve is tracing, for the solves within them."""

import contextlib
import threading

from keras_node.common import tf_internals

_state = threading.local()


@contextlib.contextmanager
def within_dynamics():
    """Marks what runs inside as dynamics that a solve is tracing."""
    before = is_within_dynamics()
    _state.is_within = True
    try:
        yield
    finally:
        _state.is_within = before


def is_within_dynamics():
    """Whether this thread traces the dynamics of a solve.

    A solve in there happens at each evaluation. Its metrics would count by a
    variable that the dynamics must not assign.
    """
    return getattr(_state, "is_within", False)


def is_counted():
    """Whether a solve, or its gradient, counts in the metrics.

    Those within dynamics do not, nor those within `tf.vectorized_map`, which
    cannot assign a variable.
    """
    return not is_within_dynamics() and not tf_internals.is_vectorized()
