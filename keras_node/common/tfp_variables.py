"""The weights within tfp objects, for Keras to train and save."""

import dis
import functools
import inspect

import keras
import tensorflow as tf


def layers_of(module):
    """Returns the Keras layers among the modules of a tfp object."""
    return [
        part
        for part in module.submodules
        if isinstance(part, keras.layers.Layer)
    ]


def find(module):
    """Returns the Keras layers and the other variables that an object uses.

    TensorFlow finds what is a module or in a structure of them. A bijector's
    function may hold more: in its closure, as an argument of a partial, as an
    attribute of the object that it is a method of, and by a global name.

    Args:
        module: tfp bijector or distribution.

    Returns:
        List of layers, and list of pairs of a variable that none of them
        holds and whether it is trained.
    """
    search = _Search()
    search.visit(module)
    held = {id(v.value) for layer in search.layers for v in layer.variables}
    held.update(id(v) for layer in search.layers for v in layer.variables)
    # Files know variables by their place: first those that TensorFlow finds.
    first = [v for v in module.variables if id(v) in search.variables]
    variables = {id(v): (v, True) for v in first}
    variables.update(search.variables)
    return search.layers, [
        (variable, is_trained and variable.trainable)
        for key, (variable, is_trained) in variables.items()
        if key not in held
    ]


def adopted_variables(module, layers):
    """Returns Keras's own of the variables that none of the layers holds.

    Args:
        module: tfp bijector or distribution.
        layers: List of the Keras layers in it.
    """
    held = {id(v.value) for layer in layers for v in layer.variables}
    return [
        adopt(v, v.trainable) for v in module.variables if id(v) not in held
    ]


def adopt(variable, trainable):
    """Returns a Keras variable that shares the value of one of TensorFlow's.

    Keras trains and saves none but its own, and has no public way to make one
    of a `tf.Variable`.
    """
    if isinstance(variable, keras.Variable):
        return variable
    adopted = keras.Variable(
        variable, trainable=trainable, dtype=variable.dtype.name
    )
    adopted._value = variable
    return adopted


class _Search:
    """A walk through an object, to what holds weights and no further."""

    def __init__(self):
        self.layers = []
        self.variables = {}
        self._seen = {}  # Keeps them alive, as an `id` holds no longer.

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
    if isinstance(value, dict):
        return list(value.values())
    if isinstance(value, (list, tuple, set)):
        return list(value)
    if isinstance(value, functools.partial):
        return [value.func, value.args, value.keywords]
    if inspect.ismethod(value):
        return [value.__func__, value.__self__]
    if inspect.isfunction(value):
        return [*_closure(value), value.__defaults__, value.__kwdefaults__]
    if isinstance(value, tf.Module):
        ignored = value._TF_MODULE_IGNORED_PROPERTIES
        return [
            part
            for name, part in sorted(vars(value).items())
            if name not in ignored
        ]
    if callable(value) and not isinstance(value, type):
        return list(getattr(value, "__dict__", {}).values())
    return []


def _closure(function):
    """Returns what a function closes over, and the globals with weights."""
    cells = [cell for cell in function.__closure__ or () if _is_full(cell)]
    names = {
        instruction.argval
        for instruction in dis.get_instructions(function)
        if instruction.opname == "LOAD_GLOBAL"
    }
    named = [function.__globals__.get(name) for name in sorted(names)]
    kinds = (keras.layers.Layer, tf.Module, tf.Variable, keras.Variable)
    return [
        *(cell.cell_contents for cell in cells),
        *(value for value in named if isinstance(value, kinds)),
    ]


def _is_full(cell):
    try:
        return cell.cell_contents is not cell
    except ValueError:  # It has no contents yet.
        return False
