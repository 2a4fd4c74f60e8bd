"""Callback that counts the evaluations that a sample takes."""

import keras
import numpy as np

from keras_node.common.arguments import as_positive_integer
from keras_node.common.solving_layers import solving_layers


class SamplingNFE(keras.callbacks.Callback):
    """Logs the number of function evaluations of sampling, as `sampling_nfe`.

    Training by flow matching solves nothing, so its metrics do not tell what a
    sample will take. After each epoch draws samples and logs the mean of the
    evaluations of the solves, of several flows the sum.

    Args:
        num_samples: Positive integer, samples to draw. Default 256.
        condition: Float array `(num_samples, features)` or `(features,)`, of a
            conditional flow. Default `None`.
        frequency: Positive integer, epochs between two counts, from the first
            on; others log the last one. Default 1.

    Raises:
        ValueError: If a number is out of its range; in `fit`, if the model
            does not sample or solves nothing.

    Example:
    >>> counter = keras_node.callbacks.SamplingNFE(num_samples=64)
    >>> counter.num_samples
    64
    """

    def __init__(self, num_samples=256, condition=None, frequency=1):
        super().__init__()
        self.num_samples = as_positive_integer(num_samples, "num_samples")
        self.condition = condition
        self.frequency = as_positive_integer(frequency, "frequency")

    def set_model(self, model):
        super().set_model(model)
        self._count = None
        self._layers = [
            layer
            for layer in solving_layers(model)
            if hasattr(layer, "diagnostics")
        ]
        if not self._layers or not hasattr(model, "sample"):
            raise ValueError(
                "`SamplingNFE` needs a `NormalizingFlow` with a `CNFBijector`. "
                f"Received: {model}"
            )

    def on_epoch_end(self, epoch, logs=None):
        if self._count is None or epoch % self.frequency == 0:
            self.model.sample(self.num_samples, self.condition)
            self._count = sum(
                float(np.mean(layer.diagnostics.num_ode_fn_evaluations))
                for layer in self._layers
            )
        if logs is not None:
            logs["sampling_nfe"] = self._count
