"""Configs of TensorFlow Probability's bijectors and distributions.

tfp keeps the arguments of a constructor as `parameters`, but has no configs.
"""

import inspect

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

_MODULES = {
    "bijectors": (tfp.bijectors, tfp.bijectors.Bijector),
    "distributions": (tfp.distributions, tfp.distributions.Distribution),
}
_PLAIN = (type(None), bool, int, float, str)


def serialize(structure):
    """Returns a config of nested dicts, lists, tensors and tfp objects.

    An object or variable that occurs twice is one object again after
    `deserialize`.

    Raises:
        ValueError: If a part cannot be found by its name on loading: a
            function or an object of a class that Keras does not know.
    """
    return _Writer().write(structure, "")


def deserialize(config):
    """Rebuilds from a config what `serialize` was given.

    Raises:
        ValueError: If the config names a class that tfp does not have.
    """
    return _Reader().read(config)


class _Writer:
    """One serialization, which remembers the objects that it has seen."""

    def __init__(self):
        self._seen = []

    def write(self, value, path):
        if isinstance(value, _PLAIN):
            return value
        if isinstance(value, dict):
            return {k: self.write(v, f"{path}.{k}") for k, v in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.write(v, f"{path}[{i}]") for i, v in enumerate(value)]
        if isinstance(value, tf.TensorShape):
            return value.as_list()
        if isinstance(value, (tf.DType, np.dtype)):
            return {"kind": "dtype", "name": tf.as_dtype(value).name}
        # `tf.is_tensor` holds for variables too.
        if isinstance(value, (np.ndarray, np.generic, tf.Tensor)):
            return {"kind": "tensor", **_values(value)}
        for index, seen in enumerate(self._seen):
            if seen is value:
                return {"kind": "same", "index": index}
        self._seen.append(value)
        return self._write_object(value, path)

    def _write_object(self, value, path):
        if isinstance(value, tf.Variable):
            return {
                "kind": "variable",
                "trainable": value.trainable,
                **_values(value),
            }
        if isinstance(value, tfp.util.TransformedVariable):
            return {
                "kind": "transformed",
                "trainable": value.pretransformed_input.trainable,
                "bijector": self.write(value.bijector, path),
                **_values(value),
            }
        if type(value) is tfp.bijectors.AutoregressiveNetwork:
            arguments = self.write(_arguments(value), path)
            return {"kind": "autoregressive_network", "arguments": arguments}
        # `tfb.Chain(...)` makes a `_Chain`, the base class of the public one.
        name = type(value).__name__.lstrip("_")
        for kind, (module, base) in _MODULES.items():
            named = getattr(module, name, int)
            if isinstance(value, base) and issubclass(named, type(value)):
                parameters = self.write(
                    _non_default_parameters(value), path or name
                )
                return {"kind": kind, "name": name, "parameters": parameters}
        if _is_known_to_keras(value):
            config = keras.saving.serialize_keras_object(value)
            return {"kind": "keras", "config": config}
        raise ValueError(
            "Only tfp's own bijectors and distributions, and objects that "
            "Keras can find again, can be saved. Decorate the class or "
            "function with `@keras.saving.register_keras_serializable("
            'package="...")`, or save the weights alone with `save_weights`. '
            f"Received: {path.lstrip('.')}={value!r}"
        )


class _Reader:
    """One deserialization, which remembers the objects that it has made."""

    def __init__(self):
        self._made = []

    def read(self, config):
        if isinstance(config, list):
            return [self.read(value) for value in config]
        if not isinstance(config, dict):
            return config
        kind = config.get("kind")
        if kind == "dtype":
            return tf.as_dtype(config["name"])
        if kind == "tensor":
            return _tensor(config)
        if kind == "same":
            return self._made[config["index"]]
        if kind is None:
            return {name: self.read(value) for name, value in config.items()}
        # As in `_Writer`, an object is numbered before its parts.
        place = len(self._made)
        self._made.append(None)
        self._made[place] = self._read_object(kind, config)
        return self._made[place]

    def _read_object(self, kind, config):
        if kind == "variable":
            return tf.Variable(_tensor(config), trainable=config["trainable"])
        if kind == "transformed":
            return tfp.util.TransformedVariable(
                _tensor(config),
                self.read(config["bijector"]),
                trainable=config["trainable"],
            )
        if kind == "keras":
            return keras.saving.deserialize_keras_object(config["config"])
        if kind == "autoregressive_network":
            arguments = self.read(config["arguments"])
            return tfp.bijectors.AutoregressiveNetwork(**arguments)
        module, base = _MODULES.get(kind, (None, object))
        made_class = getattr(module, config.get("name", ""), None)
        if not isinstance(made_class, type) or not issubclass(made_class, base):
            raise ValueError(
                "The config must name a bijector or a distribution in tfp. "
                f"Received: kind={kind!r}, name={config.get('name')!r}"
            )
        return made_class(**self.read(config["parameters"]))


def _non_default_parameters(value):
    """Returns the parameters that are not the constructor's defaults."""
    defaults = inspect.signature(type(value).__init__).parameters
    return {
        name: parameter
        for name, parameter in value.parameters.items()
        if name not in defaults or parameter is not defaults[name].default
    }


def _arguments(network):
    """Returns the arguments of an `AutoregressiveNetwork`, as it keeps them."""
    renamed = {
        "conditional_input_layers": "_conditional_layers",
        "input_order": "_input_order_param",
    }
    names = inspect.signature(type(network).__init__).parameters
    arguments = {
        name: getattr(network, renamed.get(name, f"_{name}"))
        for name in names
        if name not in ("self", "kwargs")
    }
    return {**arguments, **network._kwargs}


def _is_known_to_keras(value):
    if isinstance(value, keras.layers.Layer):
        return True
    named = value if hasattr(value, "__name__") else type(value)
    name = keras.saving.get_registered_name(named)
    return keras.saving.get_registered_object(name) is named


def _values(tensor):
    array = tf.convert_to_tensor(tensor).numpy()
    return {"value": array.tolist(), "dtype": tf.as_dtype(array.dtype).name}


def _tensor(config):
    return tf.constant(config["value"], config["dtype"])
