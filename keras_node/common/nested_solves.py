"""A mark on dynamics that a solve is tracing, for the solves within them."""

import contextlib
import threading

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
