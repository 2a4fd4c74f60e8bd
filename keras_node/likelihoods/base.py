"""The contract of a likelihood `p(x | z)` of observations."""

import keras

from keras_node.likelihoods.masks import masked_sum
from keras_node.saving import configs


class Likelihood(keras.layers.Layer):
    """Base class of likelihoods: what the decoder's outputs stand for.

    Args:
        **kwargs: Arguments of `keras.layers.Layer`.
    """

    # `(start, end)` of a rate to be integrated along the trajectory.
    window = None

    def num_outputs(self, observation_dim):
        """Returns how many outputs the decoder must have; `None` for any."""
        return observation_dim

    def distribution(self, outputs):
        """Returns the `tfd.Distribution` of the features, each by itself.

        Args:
            outputs: Float tensor `(..., T, num_outputs)`.
        """
        raise NotImplementedError

    def mean(self, outputs):
        """Returns the mean of an observation, `(..., T, observation_dim)`."""
        return self.distribution(outputs).mean()

    def log_prob(self, outputs, values, mask, observed):
        """Returns the log-likelihood of time series, `(...)`, in nats.

        Args:
            outputs: Float tensor `(..., batch, T, num_outputs)`.
            values: Float tensor `(batch, T, observation_dim)`, finite.
            mask: Boolean tensor of the shape of `values`, what is observed.
            observed: Boolean tensor `(batch, T)`, when something is.
        """
        log_prob = self.distribution(outputs).log_prob(values)
        return masked_sum(log_prob, mask, [-2, -1])

    @classmethod
    def from_config(cls, config):
        return configs.from_config(cls, config)
