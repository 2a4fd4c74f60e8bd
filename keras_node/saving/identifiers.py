"""Identifiers of objects: a name, a config dict, or the object itself."""

import keras

from keras_node.saving import configs


class Configurable:
    """Mixin: `get_config` from the attributes named in `_arguments`."""

    _arguments = ()

    def get_config(self):
        """Returns the arguments that make an equal object."""
        return {name: getattr(self, name) for name in self._arguments}

    @classmethod
    def from_config(cls, config):
        """Creates an object from the result of `get_config`."""
        return configs.from_config(cls, config)


def get(identifier, registry, kind, instance_of):
    """Returns the object that an identifier stands for.

    Args:
        identifier: String in `registry`; dict as `serialize` makes it; or
            an object.
        registry: Dict from names to classes, created with their defaults.
        kind: String for messages, the name of the argument.
        instance_of: Class, or tuple of classes, of a valid object.

    Raises:
        ValueError: If a name is not in the registry.
        TypeError: If it is none of the three.
    """
    if isinstance(identifier, str):
        if identifier not in registry:
            raise ValueError(
                f"`{kind}` must be one of {sorted(registry)}, a config dict, "
                f"or an object. Received: {kind}={identifier!r}"
            )
        return registry[identifier]()
    if isinstance(identifier, dict):
        identifier = deserialize(identifier, registry, kind)
    if isinstance(identifier, instance_of):
        return identifier
    hint = ""
    if isinstance(identifier, type) and issubclass(identifier, instance_of):
        hint = f" Write `{identifier.__name__}()`, with parentheses."
    raise TypeError(
        f"`{kind}` must be a name among {sorted(registry)}, a config dict, or "
        f"an object.{hint} Received: {kind}={identifier!r} of type "
        f"{type(identifier).__name__}"
    )


def deserialize(config, registry, kind):
    """Makes an object from a dict, in Keras's form or in a short one.

    The short form is `{"class_name": "Tsit5", "config": {"rtol": 1e-5}}`.
    """
    class_name = config.get("class_name")
    if "registered_name" in config or "module" in config:
        with configs.reading(kind, config):
            return keras.saving.deserialize_keras_object(config)
    classes = {cls.__name__: cls for cls in registry.values()} | registry
    if not isinstance(class_name, str) or class_name not in classes:
        raise ValueError(
            f"`{kind}` as a dict must have a `class_name` among "
            f"{sorted(classes)}, and a `config`. Received: {kind}={config}"
        )
    return classes[class_name].from_config(config.get("config", {}))


def serialize(instance, kind):
    """Returns the config dict of an object.

    Raises:
        TypeError: If it has no `get_config`: it cannot be saved.
    """
    if not hasattr(instance, "get_config"):
        raise TypeError(
            f"`{kind}` must have a `get_config` method to be saved. Use one "
            "that keras_node provides, or register a subclass that has one "
            "with `keras.saving.register_keras_serializable`. Received: "
            f"{kind}={instance!r}"
        )
    return keras.saving.serialize_keras_object(instance)
