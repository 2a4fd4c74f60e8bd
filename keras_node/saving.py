"""Dynamics in configs."""

import keras


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


def deserialize_dynamics(config):
    """Returns the dynamics of a config."""
    return keras.saving.deserialize_keras_object(config)
