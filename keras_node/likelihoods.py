"""Likelihoods `p(x | z)` of observations, given the decoder's outputs."""

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from keras_node import identifiers, saving
from keras_node.arguments import is_finite, is_positive


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
        return _masked_sum(log_prob, mask, [-2, -1])

    @classmethod
    def from_config(cls, config):
        return saving.from_config(cls, config)


@keras.saving.register_keras_serializable(package="keras_node")
class NormalLikelihood(Likelihood):
    """Normal noise around the decoder's output.

    `x ~ N(decoder(z), scale^2)`, for each feature by itself.

    Args:
        scale: Positive float, the standard deviation of every feature; or
            `None` (default) to learn one for each, from 1 on.
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
    """Binary features, the decoder's outputs being their log-odds."""

    def distribution(self, outputs):
        """Returns the Bernoulli distribution with logits `outputs`."""
        return tfp.distributions.Bernoulli(logits=outputs, dtype=outputs.dtype)


@keras.saving.register_keras_serializable(package="keras_node")
class PoissonLikelihood(Likelihood):
    """Counts, the decoder's outputs being the logarithms of their rates."""

    def distribution(self, outputs):
        """Returns the Poisson distribution with log-rates `outputs`."""
        return tfp.distributions.Poisson(log_rate=outputs)


@keras.saving.register_keras_serializable(package="keras_node")
class CustomLikelihood(Likelihood):
    """A likelihood that a function makes of the decoder's outputs.

    Args:
        make_distribution: Callable of `outputs`, `(..., T, units)`, that
            returns a `tfd.Distribution` of `(..., T, observation_dim)`: of
            each feature by itself, or of an observation as a whole, which
            then counts if all of it is observed. To be saved it must be
            registered with Keras.
        **kwargs: Arguments of `keras.layers.Layer`.

    Raises:
        TypeError: If it is not callable, or returns no distribution.
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
        """Returns `None`: the function knows."""

    def distribution(self, outputs):
        """Returns what the function makes of `outputs`."""
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
        # A value inside of the support, for a gradient that is finite.
        inside = tf.stop_gradient(distribution.sample(seed=(0, 0)))
        log_prob = distribution.log_prob(tf.where(mask, values, inside))
        if log_prob.shape.rank == outputs.shape.rank:
            return _masked_sum(log_prob, mask, [-2, -1])
        return _masked_sum(log_prob, tf.reduce_all(mask, -1), [-1])

    def get_config(self):
        function = saving.serialize_dynamics(
            self.make_distribution, "make_distribution"
        )
        return {**super().get_config(), "make_distribution": function}

    @classmethod
    def from_config(cls, config):
        return saving.from_config(
            cls, config, make_distribution=saving.deserialize
        )


@keras.saving.register_keras_serializable(package="keras_node")
class PoissonProcessLikelihood(Likelihood):
    """Event times, of an inhomogeneous Poisson process along the trajectory.

    With the intensity `lambda(t) = softplus(decoder(z(t))[0])`,

        log p(t_1, ..., t_N) = sum_i log lambda(t_i) - int lambda(t) dt

    The integral over the window is part of the trajectory's solve, and its
    error as small as the solver's tolerance. What an event carries besides
    its time, its marks, has a likelihood of its own, of the decoder's other
    outputs.

    Args:
        window: Tuple of two floats, in the units of `times`: when observation
            began and ended, the same for all samples.
        marks: Likelihood identifier of the values of an event, see
            `keras_node.likelihoods.get`; or `None` (default) for events that
            have none, which needs `observation_dim=0`.
        **kwargs: Arguments of `keras.layers.Layer`.

    Raises:
        ValueError: If the window does not begin before it ends.

    Example:
    >>> model = keras_node.LatentODE(
    ...     observation_dim=0,
    ...     latent_dim=2,
    ...     likelihood=keras_node.likelihoods.PoissonProcessLikelihood((0, 5)),
    ... )
    >>> events = {"times": np.array([[0.5, 2.0, 4.1]])}
    >>> model.elbo(**events).shape
    TensorShape([1])

    Reference:
    - [Chen et al., 2018, section 5.1](https://arxiv.org/abs/1806.07366)
    """

    def __init__(self, window, marks=None, **kwargs):
        super().__init__(**kwargs)
        self.window = _as_window(window)
        self.marks = None if marks is None else get(marks)

    def build(self, input_shape):
        # A loaded one is built.
        if self.marks is not None and not self.marks.built:
            self.marks.build(input_shape)

    def num_outputs(self, observation_dim):
        """Returns one for the intensity, and those of the marks.

        Raises:
            ValueError: If there are marks without a likelihood.
        """
        if (self.marks is None) != (observation_dim == 0):
            raise ValueError(
                "Events with values need a likelihood of them, `marks`, and "
                "those without `observation_dim=0`. "
                f"Received: marks={self.marks}, {observation_dim=}"
            )
        if self.marks is None:
            return 1
        num_outputs = self.marks.num_outputs(observation_dim)
        return None if num_outputs is None else 1 + num_outputs

    def rate(self, outputs):
        """Returns the intensity, `(...)`, of outputs `(..., num_outputs)`."""
        return tf.nn.softplus(outputs[..., 0])

    def mean(self, outputs):
        """Returns the intensity, followed by the mean of the marks."""
        rate = self.rate(outputs)[..., None]
        if self.marks is None:
            return rate
        return tf.concat([rate, self.marks.mean(outputs[..., 1:])], axis=-1)

    def log_prob(self, outputs, values, mask, observed):
        """Returns the first sum, with the log-likelihood of the marks.

        The integral is for the caller to subtract.
        """
        log_rate = _log_softplus(outputs[..., 0])
        total = _masked_sum(log_rate, observed, [-1])
        if self.marks is not None:
            total += self.marks.log_prob(
                outputs[..., 1:], values, mask, observed
            )
        return total

    def get_config(self):
        marks = None if self.marks is None else serialize(self.marks)
        return {**super().get_config(), "window": self.window, "marks": marks}


def _as_window(window):
    if isinstance(window, np.ndarray):
        window = window.tolist()
    is_pair = isinstance(window, (tuple, list)) and len(window) == 2
    is_pair = is_pair and all(is_finite(time) for time in window)
    if not is_pair or not window[0] < window[1]:
        raise ValueError(
            "`window` must be two floats, the first being less than the "
            f"second. Received: window={window!r}"
        )
    return (float(window[0]), float(window[1]))


def _masked_sum(log_prob, mask, axis):
    zeros = tf.zeros_like(log_prob)
    return tf.reduce_sum(tf.where(mask, log_prob, zeros), axis=axis)


def _log_softplus(x):
    # Far below zero softplus(x) is exp(x), which underflows.
    is_small = x < -15.0
    safe = tf.where(is_small, tf.zeros_like(x), x)
    return tf.where(is_small, x, tf.math.log(tf.nn.softplus(safe)))


_REGISTRY = {
    "bernoulli": BernoulliLikelihood,
    "normal": NormalLikelihood,
    "poisson": PoissonLikelihood,
}


def get(identifier):
    """Returns the likelihood that an identifier stands for.

    Args:
        identifier: `"normal"`, `"bernoulli"` or `"poisson"`; a config dict; a
            `Likelihood`; or a callable that makes a `tfd.Distribution` of the
            decoder's outputs.

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
