"""Creation of all weights of a flow, before its first use."""

import contextlib
import threading

import tensorflow as tf

_state = threading.local()


def is_active():
    """Whether weights are being made, for which no ODE needs solving."""
    return getattr(_state, "is_active", False)


def make_weights(distribution, options):
    """Runs a distribution once, to make all of its weights.

    It runs eagerly: TensorFlow templates keep the graph of their first call.

    Args:
        distribution: `tfd.TransformedDistribution`.
        options: Dict, the keyword arguments of its bijector.

    Returns:
        List of the trainable variables that it read; empty in a graph.
    """
    # No tape records inside `tf.init_scope`.
    is_eager = tf.executing_eagerly()
    scope = contextlib.nullcontext() if is_eager else tf.init_scope()
    with scope, _active(), tf.GradientTape() as tape:
        if not _has_inverse(distribution, options):
            base = distribution.distribution
            x = base.sample(1, seed=(0, 0))
            distribution.bijector.forward(x, **options)
    return list(tape.watched_variables())


def _has_inverse(distribution, options):
    """Tries to run the inverse, as a sample may cost more."""
    if not distribution.event_shape.is_fully_defined():
        return False
    # In the range of most bijectors.
    x = tf.fill([1, *distribution.event_shape], 0.5)
    x = tf.cast(x, distribution.dtype)
    try:
        x = distribution.bijector.inverse(x, **options)
        distribution.distribution.log_prob(x)
    except (NotImplementedError, tf.errors.OpError):
        return False  # There is no inverse, or 0.5 is out of its range.
    return True


@contextlib.contextmanager
def _active():
    _state.is_active = True
    try:
        yield
    finally:
        _state.is_active = False


def refusing_new_weights():
    """Returns a context in which no trainable variable can be made."""
    return tf.variable_creator_scope(_refuse)


def _refuse(next_creator, **kwargs):
    if kwargs.get("trainable") is False:
        return next_creator(**kwargs)
    raise ValueError(
        "All weights of a flow must exist when it is built, by a first call "
        "of `log_prob`: later ones would not be trained. Make them in the "
        "constructor of the bijector or of its network. "
        f"Received: a new variable {kwargs.get('name')!r}"
    )
