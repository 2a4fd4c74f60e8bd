"""`Augment`: extra dimensions for the state of an ODE."""

import keras

from keras_node.common.arguments import as_positive_integer
from keras_node.saving import configs


@keras.saving.register_keras_serializable(package="keras_node")
class Augment(keras.layers.Layer):
    """Appends channels of zeros, for an `ODELayer` to use.

    Trajectories of an ODE cannot cross, so there are functions that no ODE
    on the input space can represent. With extra dimensions it can, and its
    flow is simpler, which saves function evaluations.

    Args:
        units: Positive integer, number of zeros to append to the last axis.
        **kwargs: Other arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: Tensor of shape `(batch, ..., features)`.

    Output shape:
        `(batch, ..., features + units)`.

    Raises:
        ValueError: If `units` is not a positive integer.

    Example:
    >>> keras_node.Augment(3)(keras.ops.ones((8, 2))).shape
    TensorShape([8, 5])

    Reference:
    - [Dupont et al., 2019](https://arxiv.org/abs/1904.01681)
    """

    citations = ("dupont2019",)

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = as_positive_integer(units, "units")
        self.supports_masking = True

    def build(self, input_shape):
        if len(input_shape) < 2:
            raise ValueError(
                "The input must have a batch and a feature axis. "
                f"Received: input of shape {tuple(input_shape)}"
            )

    def call(self, inputs):
        padding = [[0, 0]] * (len(inputs.shape) - 1) + [[0, self.units]]
        return keras.ops.pad(inputs, padding)

    def compute_output_shape(self, input_shape):
        features = input_shape[-1]
        features = None if features is None else features + self.units
        return (*input_shape[:-1], features)

    def get_config(self):
        config = super().get_config()
        config.update({"units": self.units})
        return config

    @classmethod
    def from_config(cls, config):
        return configs.from_config(cls, config)
