"""Keyword arguments that a chain of bijectors passes to its flows."""

import tensorflow as tf
import tensorflow_probability as tfp

from keras_node.flows.cnf_bijector import CNFBijector


def call_options(bijector, condition=None, training=None):
    """Returns the keyword arguments of a bijector's call.

    tfp's `Chain` takes a dict of them for each of its bijectors, by name.

    Args:
        bijector: A tfp bijector.
        condition: Tensor for every `CNFBijector` whose dynamics take one, or
            `None`.
        training: Boolean for every `CNFBijector`, or `None`.

    Raises:
        ValueError: If there is a condition and no flow takes it.
    """
    if condition is not None and not takes_condition(bijector):
        raise ValueError(
            "A `condition` needs a `CNFBijector` whose dynamics take it, such "
            "as `ConcatTime(net)`, in the chain. "
            f"Received: bijector={bijector}"
        )
    return _options(bijector, condition, training)


def needs_condition(bijector):
    """Whether a flow in a bijector requires a condition."""
    if isinstance(bijector, CNFBijector):
        return bijector.field.needs_condition
    return any(needs_condition(part) for part in _sub_bijectors(bijector))


def takes_condition(bijector):
    """Whether a flow in a bijector takes a condition."""
    if isinstance(bijector, CNFBijector):
        return bijector.field.takes_condition
    return any(takes_condition(part) for part in _sub_bijectors(bijector))


def _options(bijector, condition, training):
    if isinstance(bijector, CNFBijector):
        is_conditional = takes_condition(bijector)
        options = {
            "condition": condition if is_conditional else None,
            "training": training,
        }
        return {k: v for k, v in options.items() if v is not None}
    if _is_inverted(bijector):
        return _options(bijector.bijector, condition, training)
    options = {
        part.name: _options(part, condition, training)
        for part in _sub_bijectors(bijector)
    }
    return {name: part for name, part in options.items() if part}


def _sub_bijectors(bijector):
    if _is_inverted(bijector):
        return [bijector.bijector]
    is_chain = isinstance(bijector, tfp.bijectors.Composition)
    return tf.nest.flatten(bijector.bijectors) if is_chain else []


def _is_inverted(bijector):
    # `tfb.Invert(...)` makes objects of a private class.
    return hasattr(bijector, "bijector")
