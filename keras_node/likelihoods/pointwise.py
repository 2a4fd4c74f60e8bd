"""Likelihoods that treat each observation by itself, and their names."""

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from keras_node.common.arguments import is_positive
from keras_node.likelihoods.base import Likelihood
from keras_node.likelihoods.masks import masked_sum
from keras_node.saving import configs, identifiers


@keras.saving.register_keras_serializable(package="keras_node")
class NormalLikelihood(Likelihood):
    """Normal noise around the decoder's output.

    `x ~ N(decoder(z), scale^2)`, for each feature by itself.

    Args:
        scale: Positive float, the standard deviation of every feature; or
            `None` (default) to learn one for each, starting at 1.
        **kwargs: Arguments of `keras.layers.Layer`.

    Raises:
        ValueError: If `scale` is not positive.

    Example:
    >>> likelihood = keras_node.likelihoods.NormalLikelihood(scale=0.1)
    >>> likelihood.distribution(tf.zeros((8, 2))).batch_shape
    TensorShape([8, 2])
    """

    def __init__(self, scale=None, **kwargs):
        super().__init__(**kwargs)
        if scale is not None and not (is_positive(scale) and scale < 1e30):
            raise ValueError(
                "`scale` must be a positive float, or None to learn it. "
                f"Received: scale={scale!r}"
            )
        self.scale = None if scale is None else float(scale)

    def build(self, input_shape):
        if self.scale is None:
            self.log_scale = self.add_weight(
                shape=(input_shape[-1],), initializer="zeros", name="log_scale"
            )

    def distribution(self, outputs):
        """Returns the normal distribution around `outputs`."""
        scale = self.scale
        if scale is None:
            scale = tf.exp(tf.cast(self.log_scale, outputs.dtype))
        return tfp.distributions.Normal(outputs, scale)

    def get_config(self):
        return {**super().get_config(), "scale": self.scale}


@keras.saving.register_keras_serializable(package="keras_node")
class BernoulliLikelihood(Likelihood):
    """Binary features; the decoder's outputs are their log-odds."""

    def distribution(self, outputs):
        """Returns the Bernoulli distribution with logits `outputs`."""
        return tfp.distributions.Bernoulli(logits=outputs, dtype=outputs.dtype)


@keras.saving.register_keras_serializable(package="keras_node")
class PoissonLikelihood(Likelihood):
    """Counts; the decoder's outputs are the logarithms of their rates."""

    def distribution(self, outputs):
        """Returns the Poisson distribution with log-rates `outputs`."""
        return tfp.distributions.Poisson(log_rate=outputs)


@keras.saving.register_keras_serializable(package="keras_node")
class CustomLikelihood(Likelihood):
    """A likelihood that a function makes from the decoder's outputs.

    Args:
        make_distribution: Callable of `outputs`, `(..., T, units)`, that
            returns a `tfd.Distribution` of `(..., T, observation_dim)`: of
            each feature by itself, or of an observation as a whole, which
            then counts only if all of it is observed. It must be registered
            with Keras to be saved.
        **kwargs: Arguments of `keras.layers.Layer`.

    Raises:
        TypeError: If it is not callable, or does not return a distribution.
    """

    def __init__(self, make_distribution, **kwargs):
        super().__init__(**kwargs)
        if not callable(make_distribution):
            raise TypeError(
                "`make_distribution` must be a function of the decoder's "
                "outputs. "
                f"Received: make_distribution={make_distribution!r}"
            )
        self.make_distribution = make_distribution

    def num_outputs(self, observation_dim):
        """Returns `None`: only the function knows the number."""

    def distribution(self, outputs):
        """Returns the distribution that the function makes."""
        distribution = self.make_distribution(outputs)
        if not isinstance(distribution, tfp.distributions.Distribution):
            raise TypeError(
                "A `likelihood` must return a `tfp.distributions.Distribution` "
                f"of the decoder's outputs. Received: {distribution!r}"
            )
        return distribution

    def mean(self, outputs):
        """Returns the mean, or, where tfp does not know it, the median."""
        distribution = self.distribution(outputs)
        try:
            return distribution.mean()
        except NotImplementedError:
            return distribution.quantile(0.5)

    def log_prob(self, outputs, values, mask, observed):
        """Returns the log-likelihood; see `Likelihood.log_prob`."""
        distribution = self.distribution(outputs)
        # Masked values get one inside the support, for a finite gradient.
        inside = tf.stop_gradient(distribution.sample(seed=(0, 0)))
        log_prob = distribution.log_prob(tf.where(mask, values, inside))
        if log_prob.shape.rank == outputs.shape.rank:
            return masked_sum(log_prob, mask, [-2, -1])
        return masked_sum(log_prob, tf.reduce_all(mask, -1), [-1])

    def get_config(self):
        function = configs.serialize_dynamics(
            self.make_distribution, "make_distribution"
        )
        return {**super().get_config(), "make_distribution": function}

    @classmethod
    def from_config(cls, config):
        return configs.from_config(
            cls, config, make_distribution=configs.deserialize
        )


_REGISTRY = {
    "bernoulli": BernoulliLikelihood,
    "normal": NormalLikelihood,
    "poisson": PoissonLikelihood,
}


def get(identifier):
    """Returns the likelihood that an identifier stands for.

    Args:
        identifier: `"normal"`, `"bernoulli"` or `"poisson"`; a config dict; a
            `Likelihood`; or a callable that makes a `tfd.Distribution` from
            the decoder's outputs.

    Raises:
        ValueError: If a name is unknown.
        TypeError: If it is none of these.
    """
    is_function = callable(identifier) and not isinstance(
        identifier, (type, Likelihood)
    )
    if is_function:
        return CustomLikelihood(identifier)
    return identifiers.get(identifier, _REGISTRY, "likelihood", Likelihood)


def serialize(likelihood):
    """Returns the config dict of a likelihood."""
    return identifiers.serialize(likelihood, "likelihood")
