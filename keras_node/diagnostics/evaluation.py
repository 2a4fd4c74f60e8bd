"""Outputs, losses and gradients of layers of any kind."""

import contextlib
import math

import keras
import numpy as np
import tensorflow as tf

from keras_node.common.state import widen
from keras_node.flows.cnf_bijector import CNFBijector
from keras_node.flows.normalizing_flow import NormalizingFlow
from keras_node.latent.latent_ode import LatentODE


def as_tensors(x):
    """Returns inputs as tensors, a nested structure like that of `x`."""
    return tf.nest.map_structure(tf.convert_to_tensor, x)


def outputs(layer, x):
    """Returns the outputs, a tensor or nested structure of tensors.

    For a `CNFBijector` they are the value and the log-det, for a
    `NormalizingFlow` the log-density, for a `LatentODE` the mean observations
    along the trajectory of the posterior's mean.

    Args:
        layer: Keras layer or model.
        x: Its input as tensors; for a `CNFBijector` with a condition, a dict
            of `"x"` and `"condition"`, as for a `NormalizingFlow`.
    """
    if not isinstance(layer, CNFBijector):
        return layer(x, training=False)
    options = {"training": False}
    if isinstance(x, dict):
        x, options["condition"] = x["x"], x["condition"]
    x = tf.identity(x)  # tfp's bijectors cache their results by tensor.
    return (
        layer.forward(x, **options),
        layer.forward_log_det_jacobian(x, **options),
    )


def default_loss(seed):
    """Returns a callable `loss(layer, x)` that suits every kind of layer.

    The negative log-density of a `NormalizingFlow`, the negative bound of a
    `LatentODE`, both means in nats; for all others a random projection of the
    outputs. Penalties of regularizers are not part of it.

    Args:
        seed: Integer, for the projection and for the samples of a bound.
    """

    def loss(layer, x):
        if isinstance(layer, LatentODE):
            terms = layer.terms(
                layer.observe(x), num_samples=1, training=False, seed=seed
            )
            bound = tf.reduce_mean(terms.log_likelihood, axis=0) - terms.kl
            return -tf.reduce_mean(bound)
        values = outputs(layer, x)
        if isinstance(layer, NormalizingFlow):
            return -tf.reduce_mean(values)
        return _projection(values, seed)

    return loss


def _projection(values, seed):
    """Returns the inner product with fixed normal noise."""
    total = 0.0
    for i, leaf in enumerate(floats(values)):
        noise = tf.random.stateless_normal(
            tf.shape(leaf), [seed, i], dtype=leaf.dtype
        )
        total += tf.cast(tf.reduce_sum(noise * leaf), tf.float64)
    return total


def gradients(layer, x, loss):
    """Returns the gradient to each trainable weight and float input.

    The times of a `LatentODE` are data: there is no gradient to them.

    Args:
        layer: Keras layer or model, built.
        x: Its input as tensors.
        loss: Callable `loss(layer, x)` that returns a scalar tensor.

    Returns:
        Dict from names to tensors. Names are the paths of weights, and
        `"input"` or the likes of `"input['values']"`.
    """
    x = tf.nest.map_structure(tf.identity, x)
    inputs = {
        "input" + "".join(f"[{key!r}]" for key in path): leaf
        for path, leaf in keras.tree.flatten_with_path(x)
        if leaf.dtype.is_floating
        and not (isinstance(layer, LatentODE) and path[-1] == "times")
    }
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        value = loss(layer, x)
    sources = {v.path: v.value for v in layer.trainable_variables} | inputs
    slopes = tape.gradient(
        value, sources, unconnected_gradients=tf.UnconnectedGradients.ZERO
    )
    # The gradient of a gather is sparse.
    return {name: tf.convert_to_tensor(slope) for name, slope in slopes.items()}


def floats(values):
    """Returns the float leaves of a structure of tensors."""
    leaves = [tf.convert_to_tensor(leaf) for leaf in tf.nest.flatten(values)]
    return widen([leaf for leaf in leaves if leaf.dtype.is_floating])


def arrays(tensors):
    """Returns tensors as float64 arrays."""
    return [np.asarray(tensor, np.float64) for tensor in tensors]


def relative_difference(actual, expected):
    """Returns the 2-norm of a difference, relative to that of `expected`.

    Args:
        actual: List of tensors or arrays.
        expected: List of them of the same shapes.
    """
    gap, size = distance(actual, expected), norm(expected)
    if gap == 0.0 or size == 0.0:
        return 0.0 if gap == 0.0 else math.inf
    return gap / size


def distance(actual, expected):
    """Returns the 2-norm of a difference, see `relative_difference`."""
    pairs = zip(arrays(actual), arrays(expected), strict=True)
    with np.errstate(all="ignore"):  # A drifted state may overflow.
        return norm([a - b for a, b in pairs])


def norm(tensors):
    """Returns the 2-norm of a list of tensors or arrays."""
    with np.errstate(all="ignore"):
        norms = [float(np.linalg.norm(leaf)) for leaf in arrays(tensors)]
    return math.hypot(*norms)


@contextlib.contextmanager
def preserving_state(layer):
    """Restores metrics and seeds of a layer on leaving the context."""
    kept = [(v, v.numpy()) for v in layer.variables if not v.trainable]
    kept += [(v, v.numpy()) for v in layer.metrics_variables]
    try:
        yield
    finally:
        for variable, value in kept:
            variable.assign(value)
