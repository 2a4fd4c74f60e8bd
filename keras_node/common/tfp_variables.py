"""Search for the weights in tfp objects, for Keras to train and save."""

import dis
import inspect

import keras
import tensorflow as tf

from keras_node.common.held_layers import parts_of
from keras_node.common.keras_internals import adopt


def layers_of(module):
    """Returns the Keras layers among the modules of a tfp object."""
    return [
        part
        for part in module.submodules
        if isinstance(part, keras.layers.Layer)
    ]


def find(module):
    """Returns the Keras layers and the other variables that an object uses.

    TensorFlow finds only modules and structures of them. A bijector's function
    may hold more: in its closure, in the arguments of a partial, in the
    attributes of the object that it is bound to, and in global variables.

    Args:
        module: tfp bijector or distribution.

    Returns:
        List of layers, and list of pairs `(variable, is_trained)` of the
        variables that no layer holds.
    """
    search = _Search()
    search.visit(module)
    held = {id(v.value) for layer in search.layers for v in layer.variables}
    held.update(id(v) for layer in search.layers for v in layer.variables)
    # Files identify variables by position: those TensorFlow finds go first.
    first = [v for v in module.variables if id(v) in search.variables]
    variables = {id(v): (v, True) for v in first}
    variables.update(search.variables)
    return search.layers, [
        (variable, is_trained and variable.trainable)
        for key, (variable, is_trained) in variables.items()
        if key not in held
    ]


def adopted_variables(module, layers):
    """Returns Keras variables for those that none of the layers holds.

    Args:
        module: tfp bijector or distribution.
        layers: List of the Keras layers in it.
    """
    held = {id(v.value) for layer in layers for v in layer.variables}
    return [
        adopt(v, v.trainable) for v in module.variables if id(v) not in held
    ]


class _Search:
    """A search through an object that stops at whatever holds weights."""

    def __init__(self):
        self.layers = []
        self.variables = {}
        self._seen = {}  # Keeps values alive, lest an `id` is reused.

    def visit(self, value):
        if id(value) in self._seen:
            return
        self._seen[id(value)] = value
        if isinstance(value, keras.layers.Layer):
            self.layers.append(value)
        elif isinstance(value, (tf.Variable, keras.Variable)):
            self.variables.setdefault(id(value), (value, True))
        elif _is_holder(value):
            trained = {id(v) for v in value.trainable_variables}
            for variable in value.variables:
                is_trained = id(variable) in trained
                self.variables[id(variable)] = variable, is_trained
        else:
            for part in _parts(value):
                self.visit(part)


def _is_holder(value):
    """Whether an object lists its variables: a `tf_keras` layer, a template."""
    if isinstance(value, type) or not hasattr(value, "trainable_variables"):
        return False
    return not isinstance(value, tf.Module) or hasattr(
        value, "trainable_weights"
    )


def _parts(value):
    if inspect.ismethod(value):
        return [value.__func__, value.__self__]
    if inspect.isfunction(value):
        return [*parts_of(value), *_globals_of(value)]
    if isinstance(value, tf.Module):
        ignored = value._TF_MODULE_IGNORED_PROPERTIES
        return [
            part
            for name, part in sorted(vars(value).items())
            if name not in ignored
        ]
    return parts_of(value)


def _globals_of(function):
    """Returns the global variables with weights that a function reads."""
    names = {
        instruction.argval
        for instruction in dis.get_instructions(function)
        if instruction.opname == "LOAD_GLOBAL"
    }
    named = [function.__globals__.get(name) for name in sorted(names)]
    kinds = (keras.layers.Layer, tf.Module, tf.Variable, keras.Variable)
    return [value for value in named if isinstance(value, kinds)]
