"""Base distributions of which there are samples alone."""

import inspect

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from keras_node.saving import configs


@keras.saving.register_keras_serializable(package="keras_node")
class SampledDistribution(tfp.distributions.Distribution):
    """A distribution without a density, from an object that draws samples.

    Args:
        sampler: Object with a method `sample(n)` or `sample(n, seed)` that
            returns a float tensor `(n, event)`, made by TensorFlow: it is
            called once for each graph. `seed` is an integer tensor `(2,)`.
        name: String. Default `"samples"`.
    """

    def __init__(self, sampler, name="samples"):
        parameters = dict(locals())
        self._sampler = sampler
        one = self._draw(1, tf.zeros([2], tf.int32))
        self._shape = one.shape[1:]
        super().__init__(
            dtype=one.dtype,
            reparameterization_type=tfp.distributions.NOT_REPARAMETERIZED,
            validate_args=False,
            allow_nan_stats=True,
            parameters=parameters,
            name=name,
        )

    @property
    def sampler(self):
        """The object that draws."""
        return self._sampler

    @classmethod
    def _parameter_properties(cls, dtype, num_classes=None):
        return {}

    def _event_shape(self):
        return self._shape

    def _event_shape_tensor(self):
        return tf.constant(self._shape.as_list(), tf.int32)

    def _batch_shape(self):
        return tf.TensorShape([])

    def _batch_shape_tensor(self):
        return tf.constant([], tf.int32)

    def _sample_n(self, n, seed=None):
        seed = tfp.random.sanitize_seed(seed)
        return self._draw(n, seed)

    def _draw(self, n, seed):
        parameters = inspect.signature(self._sampler.sample).parameters
        options = {"seed": seed} if "seed" in parameters else {}
        drawn = self._sampler.sample(n, **options)
        # An array would be the same in each step of a graph.
        is_tensor = isinstance(drawn, tf.Tensor) and drawn.dtype.is_floating
        if not is_tensor or drawn.shape.rank is None or drawn.shape.rank < 2:
            raise TypeError(
                "A base distribution's `sample(n)` must return a float tensor "
                "(n, event), drawn by TensorFlow; for NumPy's numbers use "
                f"`tf.numpy_function`. Received: {drawn!r}"
            )
        return drawn

    def get_config(self):
        """Returns the arguments that make an equal object."""
        return {
            "sampler": keras.saving.serialize_keras_object(self._sampler),
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config):
        """Creates an object from the result of `get_config`."""
        return configs.from_config(cls, config, sampler=configs.deserialize)


def as_distribution(base):
    """Returns a distribution, made from an object that only has `sample`."""
    is_distribution = isinstance(base, tfp.distributions.Distribution)
    if is_distribution or not callable(getattr(base, "sample", None)):
        return base
    return SampledDistribution(base)


def has_density(distribution):
    """Whether a distribution has a density, not samples or counts alone."""
    without = (SampledDistribution, tfp.distributions.Empirical)
    inner = getattr(distribution, "distribution", None)  # Of `tfd.Independent`.
    if isinstance(inner, tfp.distributions.Distribution):
        return has_density(inner)
    return not isinstance(distribution, without)
