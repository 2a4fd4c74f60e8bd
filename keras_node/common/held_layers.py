"""Search for the Keras layers that a callable holds."""

import functools
import inspect

import keras

# How deep to search the objects that a callable holds.
_MAX_DEPTH = 6


def reachable_layers(dynamics):
    """Returns the Keras layers that dynamics hold, or dynamics that are one.

    Searches closures, the defaults of functions, the object of a bound
    method, the arguments of a `functools.partial`, and the attributes of a
    callable object; lists and dicts, too. Does not search global variables.
    """
    layers, seen = [], set()

    def visit(value, depth):
        if depth > _MAX_DEPTH or id(value) in seen:
            return
        seen.add(id(value))
        if isinstance(value, keras.layers.Layer):
            layers.append(value)
            return
        for part in parts_of(value):
            visit(part, depth + 1)

    visit(dynamics, 0)
    return layers


def parts_of(value):
    """Returns the objects that a callable or a container holds."""
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
