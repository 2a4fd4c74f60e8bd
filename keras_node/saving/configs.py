"""Configs: what is in them, and the version of the package that wrote them."""

import contextlib
import reprlib

import keras
import tensorflow as tf

from keras_node.version import __version__

_VERSION = "keras_node_version"
# What Keras, tfp and Python raise over a broken config.
_STUMBLES = (
    AttributeError,
    LookupError,
    NotImplementedError,
    OverflowError,
    TypeError,
    ValueError,
    tf.errors.OpError,
)


def stamp(config):
    """Returns a config that tells which version of the package wrote it."""
    return {**config, _VERSION: __version__}


def from_config(cls, config, **readers):
    """Makes an object of a config.

    Args:
        cls: Its class.
        config: Dict of its arguments, as `get_config` makes it; the caller
            keeps it as it is.
        **readers: For an argument that is an object, the function that makes
            it of its config.

    Raises:
        TypeError: If it is no dict, or not of the arguments of the class.
        ValueError: If a newer major version of the package wrote it, or an
            object cannot be made of its config.
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
    """Tells one error of whatever is raised while a config is read.

    Keras, tfp and Python stumble over a broken one in many ways, some of them
    an `AttributeError` deep within. What says what it received passes.

    Args:
        name: String for messages, what is made of the config.
        config: What to show of it.
    """
    try:
        yield
    except _STUMBLES as error:
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
        raise ValueError("it makes no policy")
    return config  # Keras itself makes a policy of it.


def read_version(cls, config):
    """Returns a config without its stamp, checked.

    Args and errors are those of `from_config`.
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
            f"The config of `{cls.__name__}` must be of keras_node "
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
        ValueError: If it is a function that Keras could not find again.
    """
    if not isinstance(dynamics, keras.layers.Layer):
        registered = keras.saving.get_registered_name(dynamics)
        if keras.saving.get_registered_object(registered) is not dynamics:
            raise ValueError(
                f"`{name}` must be a Keras layer or a registered function to "
                "be saved; a lambda or a closure cannot be found again. "
                "Decorate a function of a module with `@keras.saving."
                'register_keras_serializable(package="...")`, or write the '
                f"{name} as a layer. Received: {name}={dynamics!r}"
            )
    return keras.saving.serialize_keras_object(dynamics)


def deserialize(config):
    """Returns the layer or the function of a config."""
    return keras.saving.deserialize_keras_object(config)
