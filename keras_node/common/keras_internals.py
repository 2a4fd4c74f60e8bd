"""Private functions of Keras, each with the reason for its use.

As they are in Keras 3.8 to 3.15.
"""

import keras


def flatten_layers(layer):
    """Returns a layer and all layers inside, at any depth.

    `Model.layers` has only those of the first level.
    """
    return layer._flatten_layers(include_self=True, recursive=True)


def forget_losses(layer):
    """Drops the losses that calls of a layer added; returns if there were any.

    `Layer.losses` includes weight regularizers.
    """
    has_some = bool(layer._losses)
    if has_some:
        layer._clear_losses()
    return has_some


def set_mask(tensor, mask):
    """Gives a layer's output a mask, which Keras keeps.

    `compute_mask` does not get the arguments of the call.
    """
    tensor._keras_mask = mask


def adopt(variable, trainable):
    """Returns a Keras variable that shares the value of a `tf.Variable`.

    Keras trains and saves only its own variables, and has no public way to
    make one from a `tf.Variable`.
    """
    if isinstance(variable, keras.Variable):
        return variable
    adopted = keras.Variable(
        variable, trainable=trainable, dtype=variable.dtype.name
    )
    adopted._value = variable
    return adopted
