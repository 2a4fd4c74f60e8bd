"""What a vector field is, and layers that make one."""

import functools
import inspect

import keras
import tensorflow as tf


def as_ode_fn(dynamics, training=None):
    """Returns dynamics of any kind as a callable `f(t, y)`.

    Args:
        dynamics: A Keras layer or model of `y`; one of `(t, y)`, among them a
            Functional model with inputs `[t, y]`; or any callable `f(t, y)`.
        training: Boolean or `None`, passed to layers that take it.

    Raises:
        TypeError: If `dynamics` is not callable.
    """
    check_callable(dynamics)
    if not isinstance(dynamics, keras.layers.Layer):
        return dynamics
    options = {}
    if training is not None and _takes_training(dynamics):
        options = {"training": training}
    if is_functional_of_time(dynamics):
        return functools.partial(_call_functional, dynamics, options)
    if takes_time(dynamics):
        return lambda t, y: dynamics(t, y, **options)
    return lambda t, y: dynamics(y, **options)


def check_callable(dynamics):
    """Raises unless dynamics can be called with time and state.

    Raises:
        TypeError: If it is not callable, a class, or takes other arguments.
    """
    if not callable(dynamics) or isinstance(dynamics, type):
        hint = " Create an object of the class." * callable(dynamics)
        raise TypeError(
            "`dynamics` must be a Keras layer or model, or a callable "
            f"f(t, y).{hint} Received: dynamics={dynamics!r}"
        )
    if isinstance(dynamics, keras.layers.Layer):
        return
    try:
        signature = inspect.signature(dynamics)
    except ValueError:
        # Some callables of C extensions do not tell.
        return
    try:
        signature.bind("t", "y")
    except TypeError as error:
        raise TypeError(
            "`dynamics` must take two arguments, the time and the state, "
            f"f(t, y). Received: dynamics={dynamics!r} with signature "
            f"{signature}"
        ) from error


def takes_time(layer):
    """Whether a Keras layer is called as `layer(t, y)`, not `layer(y)`."""
    parameters = inspect.signature(layer.call).parameters.values()
    required = [
        parameter
        for parameter in parameters
        if parameter.default is parameter.empty
        and parameter.kind
        in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        and parameter.name not in ("training", "mask")
    ]
    return len(required) == 2


def is_functional_of_time(layer):
    """Whether a layer is a Functional model with inputs `[t, y]`."""
    if not isinstance(layer, keras.Model) or takes_time(layer):
        return False
    inputs = getattr(layer, "inputs", None)
    return isinstance(inputs, (list, tuple)) and len(inputs) == 2


def build_layer(layer, t, y):
    """Builds a layer for symbolic `t` and `y`, the way it will be called.

    Args:
        layer: Keras layer or model, dynamics of any kind.
        t: `KerasTensor` of shape `()` or `(None,)`.
        y: `KerasTensor`, or a nested structure of them.
    """
    # The model that it is part of has built a Functional one already.
    if is_functional_of_time(layer):
        return
    if takes_time(layer):
        layer(t, y)
    else:
        layer(y)


def _takes_training(layer):
    return "training" in inspect.signature(layer.call).parameters


def _call_functional(model, options, t, y):
    """Calls a Functional model, whose time may have a batch axis."""
    rank = len(model.inputs[0].shape)
    if rank == 0:
        return model([t, y], **options)
    batch = tf.shape(tf.nest.flatten(y)[0])[0]
    t = tf.reshape(t, [-1] + [1] * (rank - 1))
    t = tf.broadcast_to(t, [batch] + [1] * (rank - 1))
    return model([t, y], **options)


def refuse_stateful_layers(dynamics):
    """Raises for layers whose output is no function of their input.

    Raises:
        ValueError: If there is a BatchNormalization, a Dropout or another of
            their kind in the dynamics.
    """
    if not isinstance(dynamics, keras.layers.Layer):
        return
    for layer in _flatten_layers(dynamics):
        if isinstance(layer, _UPDATING):
            raise ValueError(
                "`dynamics` must not hold a layer that updates its state when "
                "it is called: a solver calls it at every stage, those of "
                "rejected steps included. Use `GroupNormalization` or "
                "`LayerNormalization`. Received: a layer "
                f"{layer.name!r} of type {type(layer).__name__}"
            )
        if isinstance(layer, _RANDOM) and _noise_of(layer):
            raise ValueError(
                "`dynamics` must be a function of time and state, not draw "
                "noise: a solver takes noise for error. Put it before or "
                "after the ODE, or use weight decay. Received: a layer "
                f"{layer.name!r} of type {type(layer).__name__}"
            )


_UPDATING = (
    keras.layers.BatchNormalization,
    keras.layers.SpectralNormalization,
)
_RANDOM = (
    keras.layers.AlphaDropout,
    keras.layers.Dropout,
    keras.layers.GaussianDropout,
    keras.layers.GaussianNoise,
    keras.layers.SpatialDropout1D,
    keras.layers.SpatialDropout2D,
    keras.layers.SpatialDropout3D,
)


def _noise_of(layer):
    return getattr(layer, "rate", None) or getattr(layer, "stddev", 0)


def _flatten_layers(layer):
    return layer._flatten_layers(include_self=True, recursive=True)


@keras.saving.register_keras_serializable(package="keras_node")
class ConcatTime(keras.layers.Layer):
    """Feeds time to a network, as one more feature or channel.

    Calls `net(concat([y, t], axis=-1))`, `t` being constant over the axes of
    `y`. Wraps any layer or model of one input, such as `Dense` or, for the
    paper's ConcatConv, `Conv2D`.

    Args:
        net: Keras layer or model of one input.
        **kwargs: Other arguments of `keras.layers.Layer`.

    Call arguments:
        t: Float tensor of shape `()`, or `(batch,)` with per-sample steps.
        y: Float tensor of shape `(batch, ..., features)`.

    Output shape:
        That of `net`.

    Example:
    >>> field = keras_node.ConcatTime(keras.layers.Dense(2))
    >>> field(tf.constant(0.5), tf.zeros((3, 2))).shape
    TensorShape([3, 2])
    """

    def __init__(self, net, **kwargs):
        super().__init__(**kwargs)
        _check_layer(net)
        self.net = net

    def build(self, t_shape, y_shape):
        # Calling it builds also a layer that has no `build` of its own.
        shape = (*y_shape[:-1], y_shape[-1] + 1)
        self.net(keras.KerasTensor(shape, self.compute_dtype))

    def call(self, t, y):
        t = keras.ops.cast(t, y.dtype)
        rank = len(y.shape)
        t = keras.ops.reshape(t, [-1] + [1] * (rank - 1))
        t = keras.ops.broadcast_to(t, (*keras.ops.shape(y)[:-1], 1))
        return self.net(keras.ops.concatenate([y, t], axis=-1))

    def get_config(self):
        config = super().get_config()
        config.update({"net": keras.saving.serialize_keras_object(self.net)})
        return config

    @classmethod
    def from_config(cls, config):
        config = dict(config)  # The caller keeps its dict.
        config["net"] = keras.saving.deserialize_keras_object(config["net"])
        return cls(**config)


def _check_layer(net):
    if not isinstance(net, keras.layers.Layer):
        raise TypeError(
            "`net` must be a Keras layer or model of one input. "
            f"Received: net={net!r}"
        )


@keras.saving.register_keras_serializable(package="keras_node")
class IgnoreTime(keras.layers.Layer):
    """Makes dynamics of `(t, y)` of a network that takes `y` alone.

    `ODELayer` and `odeint` take such a network as it is; this is for code
    that calls dynamics itself.

    Args:
        net: Keras layer or model of one input.
        **kwargs: Other arguments of `keras.layers.Layer`.

    Call arguments:
        t: Float tensor of shape `()` or `(batch,)`, not used.
        y: Float tensor of shape `(batch, ...)`.

    Output shape:
        That of `net`.
    """

    def __init__(self, net, **kwargs):
        super().__init__(**kwargs)
        _check_layer(net)
        self.net = net

    def build(self, t_shape, y_shape):
        self.net(keras.KerasTensor(y_shape, self.compute_dtype))

    def call(self, t, y):
        return self.net(y)

    def get_config(self):
        config = super().get_config()
        config.update({"net": keras.saving.serialize_keras_object(self.net)})
        return config

    @classmethod
    def from_config(cls, config):
        config = dict(config)  # The caller keeps its dict.
        config["net"] = keras.saving.deserialize_keras_object(config["net"])
        return cls(**config)
