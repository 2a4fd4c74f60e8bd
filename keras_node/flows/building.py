"""The weights of a flow, made before it is used."""

import contextlib
import threading

import tensorflow as tf

_state = threading.local()


def is_active():
    """Whether weights are being made: no ODE needs to be solved for it."""
    return getattr(_state, "is_active", False)


def make_weights(distribution, options):
    """Runs a distribution once, so that all of its weights are made.

    It runs eagerly: templates of TensorFlow keep the graph of their first
    call.

    Args:
        distribution: `tfd.TransformedDistribution`.
        options: Dict, the keyword arguments of its bijector.

    Returns:
        List of the trainable variables that it read; none if called in a
        graph.
    """
    # In `tf.init_scope` no tape records.
    is_eager = tf.executing_eagerly()
    scope = contextlib.nullcontext() if is_eager else tf.init_scope()
    with scope, _active(), tf.GradientTape() as tape:
        if not _has_inverse(distribution, options):
            base = distribution.distribution
            x = base.sample(1, seed=(0, 0))
            distribution.bijector.forward(x, **options)
    return list(tape.watched_variables())


def _has_inverse(distribution, options):
    """Runs the inverse where that can be; a sample may cost more."""
    if not distribution.event_shape.is_fully_defined():
        return False
    # In the range of most bijectors.
    x = tf.fill([1, *distribution.event_shape], 0.5)
    x = tf.cast(x, distribution.dtype)
    try:
        x = distribution.bijector.inverse(x, **options)
        distribution.distribution.log_prob(x)
    except (NotImplementedError, tf.errors.OpError):
        return False  # There is no inverse, or a check of the range.
    return True


@contextlib.contextmanager
def _active():
    _state.is_active = True
    try:
        yield
    finally:
        _state.is_active = False


def refusing_new_weights():
    """Returns a context in which a trainable variable cannot be made."""
    return tf.variable_creator_scope(_refuse)


def _refuse(next_creator, **kwargs):
    if kwargs.get("trainable") is False:
        return next_creator(**kwargs)
    raise ValueError(
        "All weights of a flow must exist when it is built, by a first call "
        "of `log_prob`; what appears later would not be trained. Make them "
        "in the constructor of the bijector or of its network. "
        f"Received: a new variable {kwargs.get('name')!r}"
    )
