"""The weights within tfp objects, for Keras to train and save."""

import keras


def layers_of(module):
    """Returns the Keras layers in a tfp object, however deep."""
    return [
        part
        for part in module.submodules
        if isinstance(part, keras.layers.Layer)
    ]


def adopted_variables(module, layers):
    """Returns Keras's own of the variables that none of the layers holds.

    Args:
        module: tfp bijector or distribution.
        layers: List of the Keras layers in it.
    """
    held = {id(v.value) for layer in layers for v in layer.variables}
    return [_adopt(v) for v in module.variables if id(v) not in held]


def _adopt(variable):
    """Returns a Keras variable that shares the value of one of TensorFlow's.

    Keras trains and saves none but its own, and has no public way to make one
    of a `tf.Variable`.
    """
    adopted = keras.Variable(
        variable, trainable=variable.trainable, dtype=variable.dtype.name
    )
    adopted._value = variable
    return adopted
