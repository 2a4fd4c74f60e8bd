"""Writing and reading of configs, with the version of the package in them."""

import contextlib
import reprlib

import keras
import tensorflow as tf

from keras_node.version import __version__

_VERSION = "keras_node_version"
# Errors of Keras, tfp and Python for a broken config.
_CONFIG_ERRORS = (
    AttributeError,
    LookupError,
    NotImplementedError,
    OverflowError,
    TypeError,
    ValueError,
    tf.errors.OpError,
)


def stamp(config):
    """Returns a config with the version of the package that wrote it."""
    return {**config, _VERSION: __version__}


def from_config(cls, config, **readers):
    """Makes an object from a config.

    Args:
        cls: Class of the object.
        config: Dict of its arguments, as `get_config` makes it; it is not
            changed.
        **readers: For each argument that is an object, the function that makes
            it from its config.

    Raises:
        TypeError: If the config is not a dict, or not one of the arguments of
            the class.
        ValueError: If a newer major version of the package wrote it, or an
            object cannot be made from its config.
    """
    config = read_version(cls, config)
    readers = {"dtype": _dtype_policy, **readers}
    for name in readers.keys() & config.keys():
        with reading(name, config[name]):
            config[name] = readers[name](config[name])
    with reading(cls.__name__, config):
        return cls(**config)


@contextlib.contextmanager
def reading(name, config):
    """Re-raises any error as one that shows the config.

    A broken config makes Keras, tfp and Python raise errors of many kinds,
    such as an `AttributeError` deep inside. An error that shows what it
    received passes unchanged.

    Args:
        name: String for messages, what is made from the config.
        config: The config to show.
    """
    try:
        yield
    except _CONFIG_ERRORS as error:
        if "Received: " in str(error):
            raise
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(
            f"The config of `{name}` could not be read. "
            f"{type(error).__name__}: {error} "
            f"Received: config={reprlib.repr(config)}"
        ) from error


def _dtype_policy(config):
    policy = keras.dtype_policies.get(config)
    if not isinstance(policy, keras.DTypePolicy):
        raise ValueError("it is not a dtype policy")
    return config  # Keras itself makes a policy from it.


def read_version(cls, config):
    """Returns a config without its version, after checking both.

    Arguments and errors are those of `from_config`.
    """
    if not isinstance(config, dict):
        raise TypeError(
            f"The config of `{cls.__name__}` must be a dict, as `get_config` "
            f"makes it. Received: config={config!r}"
        )
    config = dict(config)
    version = config.pop(_VERSION, __version__)
    if _major(version) > _major(__version__):
        raise ValueError(
            f"The config of `{cls.__name__}` must come from keras_node "
            f"{__version__} or older: update the package to load it, "
            "`pip install -U keras_node`. Received: a config of keras_node "
            f"{version}"
        )
    return config


def _major(version):
    try:
        return int(str(version).split(".")[0])
    except ValueError:
        raise ValueError(
            f"`{_VERSION}` in a config must be a version such as "
            f'"{__version__}". Received: {_VERSION}={version!r}'
        ) from None


def serialize_dynamics(dynamics, name="dynamics"):
    """Returns the config of dynamics, or of another function.

    Args:
        dynamics: Keras layer or function.
        name: String for messages, the name of the argument.

    Raises:
        ValueError: If it is a function that Keras could not find on loading.
    """
    if not isinstance(dynamics, keras.layers.Layer):
        registered = keras.saving.get_registered_name(dynamics)
        if keras.saving.get_registered_object(registered) is not dynamics:
            raise ValueError(
                f"`{name}` must be a Keras layer or a registered function to "
                "be saved; a lambda or a closure cannot be found on loading. "
                "Decorate a module-level function with `@keras.saving."
                'register_keras_serializable(package="...")`, or write the '
                f"{name} as a layer. Received: {name}={dynamics!r}"
            )
    return keras.saving.serialize_keras_object(dynamics)


def deserialize(config):
    """Returns the layer or the function that a config describes."""
    return keras.saving.deserialize_keras_object(config)
