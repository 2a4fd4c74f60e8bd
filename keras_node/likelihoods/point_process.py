"""The Poisson process: the likelihood of the times of events."""

import keras
import numpy as np
import tensorflow as tf

from keras_node.common.arguments import is_finite
from keras_node.likelihoods.base import Likelihood
from keras_node.likelihoods.masks import masked_sum
from keras_node.likelihoods.pointwise import get, serialize


@keras.saving.register_keras_serializable(package="keras_node")
class PoissonProcessLikelihood(Likelihood):
    """Event times: an inhomogeneous Poisson process along the trajectory.

    With the intensity `lambda(t) = softplus(decoder(z(t))[0])`,

        log p(t_1, ..., t_N) = sum_i log lambda(t_i) - int lambda(t) dt

    The integral over the window is part of the trajectory's solve, so its
    error is as small as the solver's tolerance. The marks of an event, its
    values besides the time, have a separate likelihood, which takes the
    decoder's other outputs.

    Args:
        window: Tuple of two floats, in the units of `times`: when observation
            began and ended, the same for all samples.
        marks: Likelihood identifier of the values of an event, see
            `keras_node.likelihoods.get`; or `None` (default) for events that
            have none, which needs `observation_dim=0`.
        **kwargs: Arguments of `keras.layers.Layer`.

    Raises:
        ValueError: If the window does not start before it ends.

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

    citations = ("chen2018",)

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
            ValueError: If there are marks without a likelihood, or the reverse.
        """
        if (self.marks is None) != (observation_dim == 0):
            raise ValueError(
                "Events with values need `marks`, their likelihood; those "
                "without need `observation_dim=0`. "
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
        """Returns the sum over events, plus the log-likelihood of the marks.

        The caller subtracts the integral.
        """
        log_rate = _log_softplus(outputs[..., 0])
        total = masked_sum(log_rate, observed, [-1])
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


def _log_softplus(x):
    # Far below zero softplus(x) is exp(x), which underflows.
    is_small = x < -15.0
    safe = tf.where(is_small, tf.zeros_like(x), x)
    return tf.where(is_small, x, tf.math.log(tf.nn.softplus(safe)))
