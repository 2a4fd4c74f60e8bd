"""Layers that turn networks into dynamics: `ConcatTime` and `IgnoreTime`."""

import keras

from keras_node.saving import configs


class TimeWrapper(keras.layers.Layer):
    """Base class of dynamics around a network of one input."""

    def __init__(self, net, **kwargs):
        super().__init__(**kwargs)
        if not isinstance(net, keras.layers.Layer):
            raise TypeError(
                "`net` must be a Keras layer or model of one input. "
                f"Received: net={net!r}"
            )
        self.net = net

    def get_config(self):
        config = super().get_config()
        config.update({"net": keras.saving.serialize_keras_object(self.net)})
        return config

    @classmethod
    def from_config(cls, config):
        return configs.from_config(cls, config, net=configs.deserialize)


@keras.saving.register_keras_serializable(package="keras_node")
class ConcatTime(TimeWrapper):
    """Feeds time to a network, as one more feature or channel.

    Computes `net(concat([y, t], axis=-1))`, with `t` constant over the axes of
    `y`. Wraps any layer or model of one input, such as `Dense` or, for the
    paper's ConcatConv, `Conv2D`. A `condition`, if given, is concatenated
    after the time.

    A convolution is linear in its channels: of a plain `Conv1D`, `Conv2D` or
    `Conv3D`, the state is convolved alone, and `t` times a map is added. The
    result is the same to rounding, without a copy of the state, and with the
    channels in a number that fills vector registers.

    Args:
        net: Keras layer or model of one input.
        **kwargs: Other arguments of `keras.layers.Layer`.

    Call arguments:
        t: Float tensor of shape `()`, or `(batch,)` with per-sample steps.
        y: Float tensor of shape `(batch, ..., features)`.
        condition: Float tensor of shape `(batch, ..., condition features)`
            or `None` (default).

    Output shape:
        That of `net`.

    Example:
    >>> field = keras_node.ConcatTime(keras.layers.Dense(2))
    >>> field(tf.constant(0.5), tf.zeros((3, 2))).shape
    TensorShape([3, 2])
    """

    def build(self, t_shape, y_shape, condition_shape=None):
        # A call also builds a layer that defines no `build`.
        num_features = y_shape[-1] + 1
        if condition_shape is not None:
            num_features += condition_shape[-1]
        shape = (*y_shape[:-1], num_features)
        self.net(keras.KerasTensor(shape, self.compute_dtype))

    def call(self, t, y, condition=None):
        if condition is None and _is_plain_convolution(self):
            return _convolve_with_time(self.net, _aligned(t, y), y)
        return self.net(self.features(t, y, condition))

    def features(self, t, y, condition=None):
        """Returns the input of the net."""
        t = _aligned(t, y)
        t = keras.ops.broadcast_to(t, (*keras.ops.shape(y)[:-1], 1))
        parts = [y, t]
        if condition is not None:
            parts.append(keras.ops.cast(condition, y.dtype))
        return keras.ops.concatenate(parts, axis=-1)


def _aligned(t, y):
    """Returns the time in the dtype of `y`, shaped to broadcast."""
    t = keras.ops.cast(t, y.dtype)
    return keras.ops.reshape(t, [-1] + [1] * (len(y.shape) - 1))


def _is_plain_convolution(layer):
    """Whether the net of a `ConcatTime` does no more than its class says."""
    net = layer.net
    return (
        type(net)
        in (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)
        and net.built
        and net.data_format == "channels_last"
        and net.padding != "causal"
        and net.groups == 1
        and net.activity_regularizer is None
        and net.dtype_policy == layer.dtype_policy
        and not net.lora_enabled
    )


def _convolve_with_time(conv, t, y):
    """Returns `conv(concat([y, t], axis=-1))` without the concatenation."""
    kernel = keras.ops.convert_to_tensor(conv.kernel)

    def convolve(x, kernel):
        return keras.ops.conv(
            x,
            kernel,
            strides=list(conv.strides),
            padding=conv.padding,
            data_format=conv.data_format,
            dilation_rate=conv.dilation_rate,
        )

    ones = keras.ops.ones((1, *keras.ops.shape(y)[1:-1], 1), y.dtype)
    constant = t * convolve(ones, kernel[..., -1:, :])
    if conv.use_bias:
        constant += keras.ops.convert_to_tensor(conv.bias)
    outputs = convolve(y, kernel[..., :-1, :]) + constant
    return conv.activation(outputs)


@keras.saving.register_keras_serializable(package="keras_node")
class IgnoreTime(TimeWrapper):
    """Turns a network of `y` alone into dynamics of `(t, y)`.

    `ODELayer` and `odeint` take such a network as it is; this wrapper is for
    code that calls dynamics itself.

    Args:
        net: Keras layer or model of one input.
        **kwargs: Other arguments of `keras.layers.Layer`.

    Call arguments:
        t: Float tensor of shape `()` or `(batch,)`, not used.
        y: Float tensor of shape `(batch, ...)`.

    Output shape:
        That of `net`.
    """

    def build(self, t_shape, y_shape):
        self.net(keras.KerasTensor(y_shape, self.compute_dtype))

    def call(self, t, y):
        return self.net(y)
