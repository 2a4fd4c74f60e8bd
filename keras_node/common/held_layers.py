"""Layers within dynamics: those that are reachable, and those refused."""

import functools
import inspect

import keras

_UPDATING = (
    keras.layers.BatchNormalization,
    keras.layers.SpectralNormalization,
)
_RANDOM = (
    keras.layers.AlphaDropout,
    keras.layers.Dropout,
    keras.layers.GaussianDropout,
    keras.layers.GaussianNoise,
    keras.layers.SpatialDropout1D,
    keras.layers.SpatialDropout2D,
    keras.layers.SpatialDropout3D,
)
# How far to follow the objects that a callable holds.
_MAX_DEPTH = 6


def flatten_layers(layer):
    """Returns a layer and all layers in it, however deep."""
    return layer._flatten_layers(include_self=True, recursive=True)


def reachable_layers(dynamics):
    """Returns the Keras layers that dynamics hold, themselves if one.

    Those of a closure, the defaults of a function, the object of a bound
    method, the arguments of a `functools.partial`, and the attributes of a
    callable object; in lists and dicts, too. Not global variables.
    """
    layers, seen = [], set()

    def visit(value, depth):
        if depth > _MAX_DEPTH or id(value) in seen:
            return
        seen.add(id(value))
        if isinstance(value, keras.layers.Layer):
            layers.append(value)
            return
        for part in _parts_of(value):
            visit(part, depth + 1)

    visit(dynamics, 0)
    return layers


def _parts_of(value):
    """Returns what a callable or a container holds."""
    if isinstance(value, dict):
        return list(value.values())
    if isinstance(value, (list, tuple, set)):
        return list(value)
    if isinstance(value, functools.partial):
        return [value.func, *value.args, *value.keywords.values()]
    if inspect.ismethod(value):
        return [value.__self__, value.__func__, *_attributes(value.__self__)]
    if inspect.isfunction(value):
        cells = [_content(cell) for cell in value.__closure__ or ()]
        defaults = [*(value.__defaults__ or ())]
        defaults += (value.__kwdefaults__ or {}).values()
        return [*cells, *defaults, getattr(value, "__wrapped__", None)]
    if hasattr(value, "python_function"):  # A `tf.function`.
        return [value.python_function]
    if callable(value) and not inspect.isclass(value):
        return _attributes(value)
    return []


def _attributes(value):
    is_plain = not inspect.ismodule(value) and not inspect.isclass(value)
    return list(getattr(value, "__dict__", {}).values()) if is_plain else []


def _content(cell):
    try:
        return cell.cell_contents
    except ValueError:  # Not assigned yet.
        return None


def refuse_stateful_layers(layers):
    """Raises for layers whose output is no function of their input.

    Args:
        layers: List of Keras layers.

    Raises:
        ValueError: If there is a BatchNormalization, a Dropout or another of
            their kind in them, or a layer that adds losses.
    """
    for layer in (part for whole in layers for part in flatten_layers(whole)):
        received = f"a layer {layer.name!r} of type {type(layer).__name__}"
        if isinstance(layer, _UPDATING):
            raise ValueError(
                "`dynamics` must not hold a layer that updates its state when "
                "it is called: a solver calls it at every stage, those of "
                "rejected steps included. Use `GroupNormalization` or "
                f"`LayerNormalization`. Received: {received}"
            )
        if isinstance(layer, _RANDOM) and _noise_of(layer):
            raise ValueError(
                "`dynamics` must be a function of time and state, not draw "
                "noise: a solver takes noise for error. Put it before or "
                f"after the ODE, or use weight decay. Received: {received}"
            )
        if layer.activity_regularizer is not None or layer._losses:
            layer._clear_losses()
            raise ValueError(
                "`dynamics` must not add losses of their activity: a solver "
                "calls them at every stage, those of rejected steps included. "
                "Use `regularizers=[...]` of the layer that solves, which "
                "integrates a penalty, or a regularizer of the weights. "
                f"Received: {received}"
            )


def _noise_of(layer):
    return getattr(layer, "rate", None) or getattr(layer, "stddev", 0)
