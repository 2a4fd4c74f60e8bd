"""Layers whose output is no function of their input: refused in dynamics."""

import keras

from keras_node.common.keras_internals import flatten_layers, forget_losses

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


def refuse_stateful_layers(layers):
    """Raises for layers whose output is not a function of their input.

    Args:
        layers: List of Keras layers.

    Raises:
        ValueError: If they are or contain a BatchNormalization, a Dropout or
            the like, or a layer that adds losses.
    """
    for layer in (part for whole in layers for part in flatten_layers(whole)):
        received = f"a layer {layer.name!r} of type {type(layer).__name__}"
        if isinstance(layer, _UPDATING):
            raise ValueError(
                "`dynamics` must not hold a layer that updates its state when "
                "it is called: a solver calls it at every stage, including "
                "those of rejected steps. Use `GroupNormalization` or "
                f"`LayerNormalization`. Received: {received}"
            )
        if isinstance(layer, _RANDOM) and _noise_level(layer):
            raise ValueError(
                "`dynamics` must be a function of time and state, not draw "
                "noise: a solver mistakes noise for error. Put it before or "
                f"after the ODE, or use weight decay. Received: {received}"
            )
        adds_losses = forget_losses(layer)
        if layer.activity_regularizer is not None or adds_losses:
            raise ValueError(
                "`dynamics` must not add activity losses: a solver calls them "
                "at every stage, including those of rejected steps. Use "
                "`regularizers=[...]` of the layer that solves, which "
                "integrates a penalty, or a weight regularizer. "
                f"Received: {received}"
            )


def _noise_level(layer):
    return getattr(layer, "rate", None) or getattr(layer, "stddev", 0)
