"""The planar vector field of the paper's continuous normalizing flow."""

import keras

from keras_node.common.arguments import as_boolean, as_positive_integer
from keras_node.saving import configs
from keras_node.saving.quantization import KeepsQuantization


@keras.saving.register_keras_serializable(package="keras_node")
class PlanarDynamics(KeepsQuantization, keras.layers.Layer):
    """A sum of planar vector fields, each with a time-dependent gate.

        f(t, y) = sum_n s_n(t) u_n tanh(w_n . y + b_n),   s_n(t) in (0, 1)

    The gates `s` are a small network of `t`. The divergence of `f` is known,
    and costs no more than `f`:

        tr(df/dy) = sum_n s_n(t) u_n . w_n (1 - tanh(w_n . y + b_n)^2)

    Args:
        units: Positive integer, the number of planar fields.
        hypernetwork: Boolean, whether `u`, `w` and `b` also depend on time,
            as outputs of the network of the gates. Default `False`. They
            start with a standard deviation of about 0.5 in either case.
        hidden_units: Positive integer, the width of that network. Default 16.
        **kwargs: Other arguments of `keras.layers.Layer`.

    Call arguments:
        t: Float tensor of shape `()`, or `(batch,)` with per-sample steps.
        y: Float tensor of shape `(batch, features)`.

    Output shape:
        That of `y`.

    Raises:
        ValueError: If `units` or `hidden_units` is not a positive integer, or
            the state is not of rank 2.

    Example:
    >>> flow = keras_node.CNFBijector(keras_node.PlanarDynamics(32))
    >>> flow.forward(tf.zeros((8, 2))).shape
    TensorShape([8, 2])

    Reference:
    - [Chen et al., 2018, section 4 and eq. 10](https://arxiv.org/abs/1806.07366)
      (whose trace lacks the minus sign of eq. 8)
    """

    citations = ("chen2018",)

    def __init__(self, units, hypernetwork=False, hidden_units=16, **kwargs):
        super().__init__(**kwargs)
        self.units = as_positive_integer(units, "units")
        self.hypernetwork = as_boolean(hypernetwork, "hypernetwork")
        self.hidden_units = as_positive_integer(hidden_units, "hidden_units")

    def build(self, t_shape, y_shape):
        if len(y_shape) != 2:
            raise ValueError(
                "`PlanarDynamics` needs a state of shape (batch, features). "
                f"Received: a state of shape {y_shape}"
            )
        self._size = self.units * (2 * y_shape[-1] + 1)
        outputs = self.units + self._size * self.hypernetwork
        planes = keras.initializers.RandomNormal(stddev=0.5)
        self._hidden = keras.layers.Dense(
            self.hidden_units, "tanh", dtype=self.dtype_policy
        )
        # Without a spread, planes that are outputs of a network start so close
        # to 0 that `tanh` is linear, and a flow stays at a normal distribution.
        self._outputs = keras.layers.Dense(
            outputs,
            bias_initializer=planes if self.hypernetwork else "zeros",
            dtype=self.dtype_policy,
        )
        self._hidden.build((None, 1))
        self._outputs.build((None, self.hidden_units))
        if not self.hypernetwork:
            self._planes = self.add_weight(
                shape=(1, self._size),
                initializer=planes,
                name="planes",
            )

    def _made_layers(self):
        return [self._hidden, self._outputs]

    def call(self, t, y):
        gates, u, w, b = self._parameters(t, y)
        return _sum(gates * _tanh(w, b, y), u)

    def divergence(self, t, y):
        """Returns `tr(df/dy)` of each sample, `(batch,)`."""
        gates, u, w, b = self._parameters(t, y)
        slopes = 1 - keras.ops.square(_tanh(w, b, y))
        return keras.ops.sum(gates * keras.ops.sum(u * w, -1) * slopes, -1)

    def _parameters(self, t, y):
        """Returns gates, `u`, `w` and `b`, each `(1 or batch, units, ...)`."""
        t = keras.ops.reshape(keras.ops.cast(t, y.dtype), (-1, 1))
        # `divergence` is not a call of the layer, so Keras casts nothing.
        outputs = keras.ops.cast(self._outputs(self._hidden(t)), y.dtype)
        gates = keras.ops.sigmoid(outputs[:, : self.units])
        planes = outputs[:, self.units :]
        if not self.hypernetwork:
            planes = keras.ops.cast(self._planes, y.dtype)
        planes = keras.ops.reshape(
            planes, (-1, self.units, 2 * y.shape[-1] + 1)
        )
        u, w = keras.ops.split(planes[..., :-1], 2, axis=-1)
        return gates, u, w, planes[..., -1]

    def get_config(self):
        config = super().get_config()
        config.update(
            {
                "units": self.units,
                "hypernetwork": self.hypernetwork,
                "hidden_units": self.hidden_units,
            }
        )
        return config

    @classmethod
    def from_config(cls, config):
        return configs.from_config(cls, config)


def _tanh(w, b, y):
    # Parameters at one time, or at one time for each sample.
    if w.shape[0] == 1:
        product = keras.ops.matmul(y, keras.ops.transpose(w[0]))
    else:
        product = keras.ops.sum(w * y[:, None], axis=-1)
    return keras.ops.tanh(product + b)


def _sum(weights, u):
    if u.shape[0] == 1:
        return keras.ops.matmul(weights, u[0])
    return keras.ops.sum(weights[..., None] * u, axis=1)
