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

    Calls `net(concat([y, t], axis=-1))`, with `t` constant over the axes of
    `y`. Wraps any layer or model of one input, such as `Dense` or, for the
    paper's ConcatConv, `Conv2D`. A `condition`, if given, is concatenated
    after the time.

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
        t = keras.ops.cast(t, y.dtype)
        rank = len(y.shape)
        t = keras.ops.reshape(t, [-1] + [1] * (rank - 1))
        t = keras.ops.broadcast_to(t, (*keras.ops.shape(y)[:-1], 1))
        parts = [y, t]
        if condition is not None:
            parts.append(keras.ops.cast(condition, y.dtype))
        return self.net(keras.ops.concatenate(parts, axis=-1))


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
