"""Access to the layers of a model that solve ODEs."""

import contextlib

import keras

from keras_node.common.keras_internals import flatten_layers

# Functions that Keras keeps once they are traced, with the solvers in them.
_TRACES = ("train_function", "test_function", "predict_function")


def solving_layers(model):
    """Returns the layers with a `solver`: the model itself, or inside it.

    Args:
        model: Keras layer or model.
    """
    return [layer for layer in _layers(model) if hasattr(layer, "solver")]


def differentiable_layers(model):
    """Returns the solving layers that also have an `adjoint`.

    Raises:
        ValueError: If there are none.
    """
    layers = [
        layer for layer in solving_layers(model) if hasattr(layer, "adjoint")
    ]
    if not layers:
        raise ValueError(
            "The model must contain a layer of keras_node that solves an "
            "ODE, such as `ODELayer`, `CNFBijector` or `LatentODE`. "
            f"Received: {model}"
        )
    return layers


def forget_traces(model):
    """Makes a model trace its functions again, after its solvers changed."""
    for layer in _layers(model):
        for name in _TRACES:
            if layer.__dict__.get(name) is not None:
                layer.__dict__[name] = None


@contextlib.contextmanager
def using(model, **changes):
    """Context in which a model solves with another `solver` or `adjoint`.

    Args:
        model: Keras layer or model.
        **changes: `solver=` or `adjoint=`, one object for all layers.
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
    return flatten_layers(model)
