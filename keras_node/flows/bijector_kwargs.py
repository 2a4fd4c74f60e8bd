"""How a chain of bijectors passes arguments of a call to the flows in it."""

import tensorflow_probability as tfp

from keras_node.flows.cnf_bijector import CNFBijector

# `tfb.Chain(...)` and `tfb.Invert(...)` make objects of their base classes.
_CHAIN = tfp.bijectors.Chain.__bases__[0]
_INVERT = tfp.bijectors.Invert.__bases__[0]


def call_options(bijector, condition=None, training=None):
    """Returns the keyword arguments of a bijector's call.

    tfp's `Chain` takes, for each bijector in it, a dict under its name.

    Args:
        bijector: A tfp bijector.
        condition: Tensor for every `CNFBijector` whose dynamics take one, or
            `None`.
        training: Boolean for every `CNFBijector`, or `None`.

    Raises:
        ValueError: If there is a condition that nothing takes.
    """
    if condition is not None and not takes_condition(bijector):
        raise ValueError(
            "A `condition` needs a `CNFBijector` whose dynamics take it, such "
            "as `ConcatTime(net)`, in the chain. "
            f"Received: bijector={bijector}"
        )
    return _options(bijector, condition, training)


def needs_condition(bijector):
    """Whether a flow in a bijector cannot do without a condition."""
    if isinstance(bijector, CNFBijector):
        return bijector.field.needs_condition
    return any(needs_condition(part) for part in _parts(bijector))


def takes_condition(bijector):
    """Whether a flow in a bijector takes a condition."""
    if isinstance(bijector, CNFBijector):
        return bijector.field.takes_condition
    return any(takes_condition(part) for part in _parts(bijector))


def _options(bijector, condition, training):
    if isinstance(bijector, CNFBijector):
        is_conditional = takes_condition(bijector)
        options = {
            "condition": condition if is_conditional else None,
            "training": training,
        }
        return {k: v for k, v in options.items() if v is not None}
    if isinstance(bijector, _INVERT):
        return _options(bijector.bijector, condition, training)
    options = {
        part.name: _options(part, condition, training)
        for part in _parts(bijector)
    }
    return {name: part for name, part in options.items() if part}


def _parts(bijector):
    if isinstance(bijector, _INVERT):
        return [bijector.bijector]
    return bijector.bijectors if isinstance(bijector, _CHAIN) else []
