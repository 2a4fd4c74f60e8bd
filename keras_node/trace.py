"""Trace estimators: the divergence of a vector field, exact or estimated."""

import keras
import tensorflow as tf

from keras_node.common.arguments import as_positive_integer, check_among
from keras_node.dynamics import probe_noise
from keras_node.saving import identifiers


class TraceEstimator(identifiers.Configurable):
    """Base class of the ways to compute `tr(df/dy)`."""

    is_random = False

    def sample_probes(self, y, key):
        """Returns the noise of one solve, `(k, batch, ...)`, or `None`.

        Args:
            y: Float tensor `(batch, ...)`, the state.
            key: Integer scalar, mixed into the seed.
        """
        return None

    def divergence(self, linearization):
        """Returns `tr(df/dy)` of each sample, `(batch,)`.

        Args:
            linearization: `Linearization`, whose probes are those that
                `sample_probes` returned.
        """
        raise NotImplementedError


@keras.saving.register_keras_serializable(package="keras_node")
class ExactTrace(TraceEstimator):
    """The divergence itself, `sum_i e_i^T df/dy e_i`.

    All unit vectors go through one batched vector-Jacobian product: `D` of
    them for a state of `D` numbers. If the dynamics have a method
    `divergence(t, y)`, that is used instead, unless it returns `None`.

    Of `Dense` layers with Keras's own elementwise activations, at most two of
    them nonlinear, there is a closed form, which costs one more product of
    matrices, whatever the dimension: for one layer or a `Sequential` model, by
    itself or in `ConcatTime` or `IgnoreTime`, in the dtype of the state.

    Reference:
    - [Chen et al., 2018, theorem 1](https://arxiv.org/abs/1806.07366)
    """

    citations = ("chen2018",)

    def divergence(self, linearization):
        """Returns `tr(df/dy)` of each sample, `(batch,)`."""
        if linearization.closed_divergence is not None:
            return linearization.closed_divergence
        y = linearization.derivative
        event = y.shape[1:]
        if not event.is_fully_defined():
            raise ValueError(
                'trace="exact" needs an event of known shape; set it with '
                '`tf.ensure_shape`, or use trace="hutchinson". '
                f"Received: a state of shape {y.shape}"
            )
        size = event.num_elements()
        units = tf.reshape(tf.eye(size, dtype=y.dtype), [size, 1, *event])
        cotangents = tf.broadcast_to(
            units, tf.concat([[size], tf.shape(y)], axis=0)
        )
        return tf.reduce_sum(_dot(linearization.vjp(cotangents), units), axis=0)


@keras.saving.register_keras_serializable(package="keras_node")
class Hutchinson(TraceEstimator):
    """An unbiased estimate, `mean_k v_k^T df/dy v_k`, with `E[v v^T] = I`.

    In training each solve draws new noise `v`, from a seed that is saved with
    the layer. Elsewhere the noise is a function of `seed` and the shape of the
    state: a solve and its inverse share it, and `log_prob` is a deterministic
    function. Outside `fit`, a call counts as training if a tape watches the
    weights, unless `training` is passed.

    Args:
        num_probes: Positive integer, how many `v` to average. Default 1.
        distribution: `"rademacher"` (default), which has the least variance,
            or `"gaussian"`.
        seed: Integer for the same noise in every run, or `None` (default) to
            draw one.

    Raises:
        ValueError: If an argument is out of its range.

    Reference:
    - [Hutchinson, 1990](https://doi.org/10.1080/03610919008812866)
    - [Grathwohl et al., 2019](https://arxiv.org/abs/1810.01367)
    """

    citations = ("grathwohl2019", "hutchinson1990")
    is_random = True
    _arguments = ("num_probes", "distribution", "seed")

    def __init__(self, num_probes=1, distribution="rademacher", seed=None):
        check_among(distribution, "distribution", probe_noise.DISTRIBUTIONS)
        self.num_probes = as_positive_integer(num_probes, "num_probes")
        self.distribution = distribution
        self.seed = probe_noise.as_seed(seed)

    def sample_probes(self, y, key):
        """Returns the noise of one solve, `(num_probes, batch, ...)`."""
        return probe_noise.sample_like(
            y, self.num_probes, self.distribution, self.seed, key
        )

    def divergence(self, linearization):
        """Returns the estimate for each sample, `(batch,)`."""
        products = _dot(linearization.probe_products, linearization.probes)
        return tf.reduce_mean(products, axis=0)


@keras.saving.register_keras_serializable(package="keras_node")
class HutchPlusPlus(Hutchinson):
    """An estimate that is exact on the Jacobian's largest directions.

    With `Q` an orthonormal basis of `J^T S`, where `S` is one half of the
    probes, adds the trace on `Q` to Hutchinson's estimate, from the other
    half, on the rest of the space. It takes three products for each of
    `num_probes`, and is exact once `num_probes` reaches the dimension. The
    gradient treats `Q` as constant: it is unbiased, since the estimate is so
    for any `Q`.

    Args:
        num_probes: Positive integer, columns of `S`. Default 1.
        distribution: As in `Hutchinson`.
        seed: As in `Hutchinson`.

    Reference:
    - [Meyer et al., 2021](https://arxiv.org/abs/2010.09649)
    """

    citations = ("meyer2021",)

    def sample_probes(self, y, key):
        """Returns sketch and noise of one solve, `(2 * num_probes, ...)`."""
        halves = [
            super(HutchPlusPlus, self).sample_probes(y, key + i)
            for i in range(2)
        ]
        return tf.concat(halves, axis=0)

    def divergence(self, linearization):
        """Returns the estimate for each sample, `(batch,)`."""
        sketch, rest = tf.split(linearization.probes, 2)
        basis = _orthonormal(tf.stop_gradient(linearization.vjp(sketch)))
        rest = _project_out(rest, basis)
        products = linearization.vjp(tf.concat([basis, rest], axis=0))
        size = basis.shape[0]
        on_basis = tf.reduce_sum(_dot(products[:size], basis), axis=0)
        return on_basis + tf.reduce_mean(_dot(products[size:], rest), axis=0)


def _dot(x, y):
    """Inner products over the event, `(k, batch)`."""
    return tf.reduce_sum(x * y, axis=list(range(2, y.shape.rank)))


def _orthonormal(vectors):
    """Returns an orthonormal basis of `(k, batch, ...)` vectors."""
    shape = tf.shape(vectors)
    flat = tf.reshape(vectors, tf.concat([shape[:2], [-1]], axis=0))
    q, _ = tf.linalg.qr(tf.transpose(flat, [1, 2, 0]))
    basis = tf.transpose(q, [2, 0, 1])
    size = vectors.shape[2:].num_elements()
    count = min(vectors.shape[0], size) if size else vectors.shape[0]
    basis = tf.reshape(basis, tf.concat([[count], shape[1:]], axis=0))
    return tf.ensure_shape(basis, [count, *vectors.shape[1:]])


def _project_out(vectors, basis):
    """Returns vectors without their components in the span of the basis."""
    axes = list(range(3, basis.shape.rank + 1))
    coefficients = tf.reduce_sum(
        vectors[:, None] * basis[None], axis=axes, keepdims=True
    )
    return vectors - tf.reduce_sum(coefficients * basis[None], axis=1)


_REGISTRY = {
    "exact": ExactTrace,
    "hutchinson": Hutchinson,
    "hutch++": HutchPlusPlus,
}


def get(identifier):
    """Returns the trace estimator that an identifier stands for.

    Args:
        identifier: `"exact"`, `"hutchinson"` or `"hutch++"`; a config dict as
            `serialize` makes it; or a `TraceEstimator`.

    Raises:
        ValueError: If a name is unknown.
        TypeError: If it is none of these.
    """
    return identifiers.get(identifier, _REGISTRY, "trace", TraceEstimator)


def serialize(estimator):
    """Returns the config dict of an estimator."""
    return identifiers.serialize(estimator, "trace")
