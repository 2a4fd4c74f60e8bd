"""What a vector field is: how dynamics of any kind are called."""

import functools
import inspect

import keras
import tensorflow as tf


def as_ode_fn(dynamics, training=None, condition=None):
    """Returns dynamics of any kind as a callable `f(t, y)`.

    Args:
        dynamics: A Keras layer or model of `y`; one of `(t, y)`, among them a
            Functional model with inputs `[t, y]`; or any callable `f(t, y)`.
            With a condition, each takes it too, by the name `condition`, a
            Functional model as its third input.
        training: Boolean or `None`, passed to layers that take it.
        condition: Tensor or structure that the dynamics depend on, or `None`.

    Raises:
        TypeError: If `dynamics` is not callable.
        ValueError: If it does not take the condition, or does not get the one
            that it needs.
    """
    check_callable(dynamics, condition)
    options = {}
    if condition is not None:
        options["condition"] = condition
    if not isinstance(dynamics, keras.layers.Layer):
        return functools.partial(dynamics, **options) if options else dynamics
    if training is not None and _names(dynamics.call, "training"):
        options["training"] = training
    if num_functional_inputs(dynamics):
        return functools.partial(_call_functional, dynamics, options)
    if takes_time(dynamics):
        return lambda t, y: dynamics(t, y, **options)
    return lambda t, y: dynamics(y, **options)


def check_callable(dynamics, condition=None):
    """Raises unless dynamics can be called with time, state and condition.

    Raises:
        TypeError: If it is not callable, a class, or takes other arguments.
        ValueError: If it does not take the condition, or does not get the one
            that it needs.
    """
    if not callable(dynamics) or isinstance(dynamics, type):
        hint = " Create an object of the class." * callable(dynamics)
        raise TypeError(
            "`dynamics` must be a Keras layer or model, or a callable "
            f"f(t, y).{hint} Received: dynamics={dynamics!r}"
        )
    _check_condition(dynamics, condition)
    if isinstance(dynamics, keras.layers.Layer):
        return
    signature = _signature(dynamics)
    options = {} if condition is None else {"condition": condition}
    try:
        signature.bind("t", "y", **options)
    except TypeError as error:
        raise TypeError(
            "`dynamics` must take two arguments, the time and the state, "
            f"f(t, y). Received: dynamics={dynamics!r} with signature "
            f"{signature}"
        ) from error


def _check_condition(dynamics, condition):
    if condition is not None and not takes_condition(dynamics):
        raise ValueError(
            "A `condition` needs dynamics that take it: a layer with "
            "`call(self, t, y, condition)`, a function f(t, y, condition), a "
            "Functional model with inputs [t, y, condition], or "
            "`ConcatTime(net)`. "
            f"Received: dynamics={dynamics!r}, condition={condition}"
        )
    if condition is None and needs_condition(dynamics):
        raise ValueError(
            "The dynamics need a `condition`; pass it in the call, such as "
            "`bijector.forward(x, condition=c)`. "
            f"Received: dynamics={dynamics!r}, condition=None"
        )


def takes_condition(dynamics):
    """Whether dynamics take a `condition`."""
    if not callable(dynamics):
        return False
    if isinstance(dynamics, keras.layers.Layer):
        is_conditional = num_functional_inputs(dynamics) == 3
        # Some layers take any keyword, and pass it on to none that does.
        return is_conditional or _names(dynamics.call, "condition")
    parameters = _signature(dynamics).parameters.values()
    return _names(dynamics, "condition") or any(
        parameter.kind is parameter.VAR_KEYWORD for parameter in parameters
    )


def needs_condition(dynamics):
    """Whether dynamics cannot do without a `condition`."""
    if isinstance(dynamics, keras.layers.Layer):
        if num_functional_inputs(dynamics):
            return num_functional_inputs(dynamics) == 3
        dynamics = dynamics.call
    parameter = _signature(dynamics).parameters.get("condition")
    return parameter is not None and parameter.default is parameter.empty


def takes_time(layer):
    """Whether a Keras layer is called as `layer(t, y)`, not `layer(y)`."""
    parameters = inspect.signature(layer.call).parameters.values()
    required = [
        parameter
        for parameter in parameters
        if parameter.default is parameter.empty
        and parameter.kind
        in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        and parameter.name not in ("condition", "training", "mask")
    ]
    return len(required) == 2


def num_functional_inputs(layer):
    """Returns how many inputs a Functional model of time has, else 0.

    Two are `[t, y]`, three are `[t, y, condition]`.
    """
    if not isinstance(layer, keras.Model) or takes_time(layer):
        return 0
    inputs = getattr(layer, "inputs", None)
    is_of_time = isinstance(inputs, (list, tuple)) and len(inputs) in (2, 3)
    return len(inputs) if is_of_time else 0


def _signature(function):
    try:
        return inspect.signature(function)
    except ValueError:
        # Some callables of C extensions do not tell.
        return inspect.signature(lambda *args, **kwargs: None)


def _names(function, name):
    return name in _signature(function).parameters


def build_layer(layer, t, y, condition=None):
    """Builds a layer for symbolic arguments, the way it will be called.

    Args:
        layer: Keras layer or model, dynamics of any kind.
        t: `KerasTensor` of shape `()` or `(None,)`.
        y: `KerasTensor`, or a nested structure of them.
        condition: As `y`, or `None`.
    """
    # The model that it is part of has built a Functional one already.
    if not num_functional_inputs(layer):
        as_ode_fn(layer, condition=condition)(t, y)


def _call_functional(model, options, t, y):
    """Calls a Functional model, whose time may have a batch axis."""
    options = dict(options)
    rank = len(model.inputs[0].shape)
    if rank > 0:
        batch = tf.shape(tf.nest.flatten(y)[0])[0]
        t = tf.reshape(t, [-1] + [1] * (rank - 1))
        t = tf.broadcast_to(t, [batch] + [1] * (rank - 1))
    inputs = [t, y]
    if "condition" in options:
        inputs.append(options.pop("condition"))
    return model(inputs, **options)


def refuse_stateful_layers(dynamics):
    """Raises for layers whose output is no function of their input.

    Raises:
        ValueError: If there is a BatchNormalization, a Dropout or another of
            their kind in the dynamics.
    """
    if not isinstance(dynamics, keras.layers.Layer):
        return
    for layer in flatten_layers(dynamics):
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


def flatten_layers(layer):
    """Returns a layer and all layers in it, however deep."""
    return layer._flatten_layers(include_self=True, recursive=True)
