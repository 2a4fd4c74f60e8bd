"""The layers of a model that solve ODEs, found and changed together."""

import contextlib

import keras

from keras_node.common import held_layers

# What Keras keeps of a model, traced with its solvers.
_TRACES = ("train_function", "test_function", "predict_function")


def solving_layers(model):
    """Returns the layers with a `solver`: the model itself, or within it.

    Args:
        model: Keras layer or model.
    """
    return [layer for layer in _layers(model) if hasattr(layer, "solver")]


def differentiable_layers(model):
    """Returns those that also let one choose the `adjoint`.

    Raises:
        ValueError: If there is none.
    """
    layers = [
        layer for layer in solving_layers(model) if hasattr(layer, "adjoint")
    ]
    if not layers:
        raise ValueError(
            "There must be a layer of keras_node in the model that solves an "
            "ODE, such as `ODELayer`, `CNFBijector` or `LatentODE`. "
            f"Received: {model}"
        )
    return layers


def forget_traces(model):
    """Lets a model trace its functions again, with solvers that changed."""
    for layer in _layers(model):
        for name in _TRACES:
            if layer.__dict__.get(name) is not None:
                layer.__dict__[name] = None


@contextlib.contextmanager
def using(model, **changes):
    """Solves with another `solver` or `adjoint` for a while.

    Args:
        model: Keras layer or model.
        **changes: `solver=` or `adjoint=`, an object for every layer.
    """
    layers = differentiable_layers(model)
    kept = [
        {name: getattr(layer, name) for name in changes} for layer in layers
    ]
    try:
        _set(model, layers, [changes] * len(layers))
        yield
    finally:
        _set(model, layers, kept)


def _set(model, layers, values):
    for layer, attributes in zip(layers, values, strict=True):
        for name, value in attributes.items():
            setattr(layer, name, value)
    forget_traces(model)


def _layers(model):
    if not isinstance(model, keras.layers.Layer):
        raise TypeError(
            f"Expected a Keras layer or model. Received: {model!r} of type "
            f"{type(model).__name__}"
        )
    return held_layers.flatten_layers(model)
