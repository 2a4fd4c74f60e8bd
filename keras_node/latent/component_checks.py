"""The components of a `LatentODE`: their defaults, and their checks."""

import inspect

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from keras_node.common.arguments import is_integer, is_positive_integer


def or_default(layer, units, dtype):
    """Returns the layer, or, if it is `None`, the default network."""
    return _network(units, dtype) if layer is None else layer


def check_decoder(decoder):
    """Raises `TypeError` unless it is a Keras layer."""
    if not isinstance(decoder, keras.layers.Layer):
        raise TypeError(
            "`decoder` must be a Keras layer of (batch, latent_dim). "
            f"Received: decoder={decoder!r}"
        )


def _network(units, dtype):
    """Returns a network with one hidden layer.

    Raises:
        ValueError: If the likelihood does not fix the number of outputs.
    """
    if units is None:
        raise ValueError(
            "A `likelihood` that is a function needs a `decoder`, a Keras "
            "layer with the outputs that the function takes. "
            "Received: decoder=None"
        )
    return keras.Sequential(
        [
            keras.layers.Dense(32, "tanh", dtype=dtype),
            keras.layers.Dense(units, dtype=dtype),
        ]
    )


def standard_normal(latent_dim, dtype):
    """Returns the default prior."""
    zeros = tf.zeros([latent_dim], dtype)
    return tfp.distributions.MultivariateNormalDiag(zeros, tf.ones_like(zeros))


def moments(distribution):
    """Returns mean and standard deviation, or 0 and 1 if they are unknown."""
    dtype = distribution.dtype
    try:
        return distribution.mean(), distribution.stddev()
    except NotImplementedError:
        return tf.zeros([], dtype), tf.ones([], dtype)


def call(layer, inputs, **options):
    """Calls a layer with the options that it takes and that are not `None`."""
    names = inspect.signature(layer.call).parameters
    options = {
        name: value
        for name, value in options.items()
        if name in names and value is not None
    }
    return layer(inputs, **options)


def check_dims(observation_dim, latent_dim):
    """Raises `ValueError` unless both are sizes."""
    is_size = is_integer(observation_dim) and observation_dim >= 0
    if not is_size or not is_positive_integer(latent_dim):
        raise ValueError(
            "`observation_dim` must be an integer, at least 0, and "
            "`latent_dim` a positive one. "
            f"Received: {observation_dim=}, {latent_dim=}"
        )


def check_prior(prior, latent_dim, dtype):
    """Raises unless the prior is a distribution of latent states.

    Raises:
        TypeError: If it is not a distribution.
        ValueError: If its shape or dtype does not fit.
    """
    if not isinstance(prior, tfp.distributions.Distribution):
        raise TypeError(
            "`prior` must be a tfp distribution. "
            f"Received: prior={prior!r} of type {type(prior).__name__}"
        )
    fits = prior.event_shape == [latent_dim] and prior.batch_shape == []
    fits = fits and prior.dtype == dtype
    if not fits:
        raise ValueError(
            f"`prior` must be one distribution of events ({latent_dim},) of "
            f"dtype {dtype.name}; `tfd.Independent` turns a batch into events. "
            f"Received: prior={prior}"
        )


def check_encoded(encoded):
    """Raises `ValueError` unless there is one vector for each series."""
    if len(encoded.shape) != 2:
        raise ValueError(
            "`encoder` must be a Keras layer that maps a series to one vector, "
            "(batch, T, features) to (batch, units), such as "
            "`keras.layers.GRU(25, go_backwards=True)`. "
            f"Received: an output of shape {encoded.shape}"
        )


def check_posterior_head(posterior_head):
    """Raises `TypeError` unless it is a Keras layer."""
    if not isinstance(posterior_head, keras.layers.Layer):
        raise TypeError(
            "`posterior_head` must be a Keras layer of the encoder's output. "
            f"Received: posterior_head={posterior_head!r}"
        )


def check_outputs(outputs, num_outputs):
    """Raises `ValueError` unless the decoder suits the likelihood."""
    expected = [None, num_outputs]
    if not tf.TensorShape(outputs.shape).is_compatible_with(expected):
        raise ValueError(
            "`decoder` must be a Keras layer that maps a latent state to what "
            f"the likelihood needs, (batch, latent_dim) to {tuple(expected)}. "
            f"Received: an output of shape {outputs.shape}"
        )


def check_posterior(outputs, latent_dim):
    """Raises `ValueError` unless outputs are mean and scale of a state."""
    expected = [None, 2 * latent_dim]
    if not tf.TensorShape(outputs.shape).is_compatible_with(expected):
        raise ValueError(
            "`posterior_head` must be a Keras layer that maps the encoder's "
            "output to mean and scale of a latent state, concatenated: "
            f"{tuple(expected)}. Received: an output of shape {outputs.shape}"
        )


def check_window(window, initial_time):
    """Raises `ValueError` if a window begins before the trajectory."""
    if window is not None and window[0] < initial_time:
        raise ValueError(
            "The window of a point process must not begin before "
            f"`initial_time`. Received: {window=}, {initial_time=}"
        )
