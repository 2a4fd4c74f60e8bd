"""Penalties: integrals along the solution, one for each sample."""

import keras
import tensorflow as tf

from keras_node.common.nfe_metrics import is_counted
from keras_node.common.state import solved_dtype
from keras_node.dynamics import probe_noise
from keras_node.dynamics.linearization import Linearization
from keras_node.regularizers import get


class Penalties:
    """The regularizers of one layer: their integrals, losses and metrics.

    Args:
        regularizers: See `get`.
        name: String, the name of the layer.

    Attributes:
        metrics: Keras metrics, for the layer to track.
    """

    def __init__(self, regularizers, name):
        self.regularizers = get(regularizers)
        self.metrics = [
            keras.metrics.Mean(f"{name}_{regularizer.name}")
            for regularizer in self.regularizers
        ]

    @property
    def needs_probes(self):
        """Whether any regularizer is an estimate, made with noise."""
        return any(r.needs_probes for r in self.regularizers)

    def sample_probes(self, y, key):
        """Returns the noise of the first regularizer that needs any."""
        return self._first_with_probes.sample_probes(y, key)

    @property
    def seed(self):
        """The seed of the noise."""
        return getattr(self._first_with_probes, "seed", None)

    @property
    def _first_with_probes(self):
        return next(r for r in self.regularizers if r.needs_probes)

    def zeros(self, y):
        """Returns the integrals at the first time: zeros, `(batch,)` each."""
        leaf = tf.nest.flatten(y)[0]
        zero = tf.zeros_like(leaf, solved_dtype(leaf.dtype))
        zero = tf.reduce_sum(zero, axis=list(range(1, leaf.shape.rank)))
        return [zero] * len(self.regularizers)

    def rates(self, linearization):
        """Returns the derivatives of the integrals."""
        return [r.rate(linearization) for r in self.regularizers]

    def extend(self, ode_fn, y, key):
        """Returns dynamics of `(y, integrals)`.

        Args:
            ode_fn: Callable `(t, y) -> dy/dt`.
            y: The state at the first time.
            key: Integer, mixed into the seed of the noise.
        """
        if not self.regularizers:
            return lambda t, state: (ode_fn(t, state[0]), [])
        bits = None
        if self.needs_probes:
            bits = probe_noise.freeze(self.sample_probes(y, key))

        def extended(t, state):
            probes = probe_noise.thaw(bits, state[0])
            linearization = Linearization(ode_fn, t, state[0], probes)
            return linearization.derivative, self.rates(linearization)

        return extended

    def report(self, layer, integrals):
        """Adds losses to the layer, and updates the metrics.

        Args:
            layer: Keras layer, in its `call`.
            integrals: List of `(batch,)` tensors, at the last time.
        """
        for regularizer, metric, integral in zip(
            self.regularizers, self.metrics, integrals, strict=True
        ):
            value = tf.reduce_mean(tf.abs(integral))
            if is_counted():
                size = tf.shape(integral)[0]
                metric.update_state(tf.stop_gradient(value), sample_weight=size)
            loss = regularizer.weight * value
            # A model can only sum losses of one dtype.
            layer.add_loss(tf.cast(loss, keras.config.floatx()))
