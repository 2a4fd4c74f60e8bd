"""`VariationalModel`: a Keras model trained on a bound of the likelihood."""

import typing

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from keras_node.common import unsupervised
from keras_node.common.arguments import (
    as_int32,
    as_positive_integer,
    is_nonnegative,
)
from keras_node.common.conversion import as_count, is_integer_tensor
from keras_node.common.nfe_metrics import NFE
from keras_node.common.random_numbers import Seeds
from keras_node.latent.method_graphs import KeptGraphs


class Terms(typing.NamedTuple):
    """The terms of the bound for a batch, and what the metrics need.

    Attributes:
        log_likelihood: `(num_samples, batch)`, `log p(x | z0)`.
        log_ratio: `(num_samples, batch)`, `log p(z0) - log q(z0 | x)`.
        kl: `(batch,)`, `KL(q(z0 | x) || p(z0))`.
        values: `(batch, T, D)`, the values to predict, with their `mask`.
        mask: Boolean tensor of the same shape.
        means: `(batch, T, D)`, the predicted means.
        num_evaluations: Integer, the NFE; one, or one per clock.
    """

    log_likelihood: tf.Tensor
    log_ratio: tf.Tensor
    kl: tf.Tensor
    values: tf.Tensor
    mask: tf.Tensor
    means: tf.Tensor
    num_evaluations: tf.Tensor


class VariationalModel(unsupervised.UnsupervisedModel):
    """Base class of models that are trained on the evidence lower bound.

    Args:
        has_values: Boolean, whether there are values, for a metric `rmse`.
        **kwargs: Arguments of `keras.Model`.
    """

    def __init__(self, has_values, **kwargs):
        super().__init__(**kwargs)
        self._num_samples, self._kl_weight = 1, 1.0
        self._seeds = Seeds()
        self._kept = KeptGraphs()
        self._loss = keras.metrics.Mean("loss")
        self._log_likelihood = keras.metrics.Mean("log_likelihood")
        self._kl = keras.metrics.Mean("kl")
        self._rmse = None
        if has_values:
            self._rmse = keras.metrics.RootMeanSquaredError("rmse")
        self._nfe = NFE("nfe")
        self._nfe_backward = NFE("nfe_backward")
        self._drift = None

    def observe(self, inputs):
        """Returns a batch of data as checked tensors, for `terms`."""
        raise NotImplementedError

    def terms(self, observed, num_samples, training=False, seed=None):
        """Returns the `Terms` of a batch."""
        raise NotImplementedError

    def elbo(
        self,
        values=None,
        times=None,
        mask=None,
        targets=None,
        num_samples=1,
        seed=None,
    ):
        """Returns the evidence lower bound of each series, `(batch,)`, in nats.

        Args:
            values: Float tensor `(batch, T, observation_dim)`; or a dict of
                data as for `fit`, in place of the first four arguments.
            times: Floats, `(T,)` or `(batch, T)`.
            mask: See the class. Default `None`.
            targets: Dict of what to predict instead. Default `None`.
            num_samples: Positive integer, samples of `z0` to average over.
                Default 1.
            seed: Integer for the same samples again, or `None` (default).
        """
        terms = self._sample_terms(
            num_samples, seed, values, times, mask, targets
        )
        return tf.reduce_mean(terms.log_likelihood, axis=0) - terms.kl

    def importance_weighted_bound(
        self,
        values=None,
        times=None,
        mask=None,
        targets=None,
        num_samples=64,
        seed=None,
    ):
        """Returns a tighter bound of each series, `(batch,)`, in nats.

        `log (1/K) sum_k p(x | z_k) p(z_k) / q(z_k | x)`, whose mean rises
        towards `log p(x)` with the number of samples `K`.

        Args:
            values: Float tensor `(batch, T, observation_dim)`; or a dict of
                data as for `fit`, in place of the first four arguments.
            times: Floats, `(T,)` or `(batch, T)`.
            mask: See the class. Default `None`.
            targets: Dict of what to predict instead. Default `None`.
            num_samples: Positive integer, `K`. Default 64.
            seed: Integer for the same samples again, or `None` (default).

        Reference:
        - [Burda et al., 2016](https://arxiv.org/abs/1509.00519)
        """
        terms = self._sample_terms(
            num_samples, seed, values, times, mask, targets
        )
        log_weights = terms.log_likelihood + terms.log_ratio
        return tfp.math.reduce_logmeanexp(log_weights, axis=0)

    def compile(self, optimizer="adam", num_samples=1, kl_weight=1.0, **kwargs):
        """Configures the model for training.

        Args:
            optimizer: As in `keras.Model.compile`. Default `"adam"`.
            num_samples: Positive integer, samples of `z0` for each series.
                Default 1.
            kl_weight: Float, at least 0, the factor of the KL in the training
                loss; or a callable of the step, such as a
                `keras.optimizers.schedules.LearningRateSchedule`. Default
                1.0, which evaluation always uses.
            **kwargs: Other arguments of `keras.Model.compile`; the loss and
                the metrics are the model's own.

        Raises:
            ValueError: If an argument is out of its range.
        """
        unsupervised.check_compile(kwargs)
        num_samples = as_positive_integer(num_samples, "num_samples")
        _check_kl_weight(kl_weight)
        super().compile(optimizer=optimizer, **kwargs)
        self._num_samples = num_samples
        self._kl_weight = kl_weight
        self._compile_options = kwargs

    def get_compile_config(self):
        if not self.compiled:
            return {}
        return keras.saving.serialize_keras_object(
            {
                "optimizer": self.optimizer,
                "num_samples": self._num_samples,
                "kl_weight": self._kl_weight,
                **self._compile_options,
            }
        )

    def compile_from_config(self, config):
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)

    @property
    def metrics(self):
        """The metrics that `fit` shows."""
        metrics = [self._loss, self._log_likelihood, self._kl, self._rmse]
        metrics += [self._nfe, self._nfe_backward, self._drift]
        return [metric for metric in metrics if metric is not None]

    def fit(self, x=None, *args, **kwargs):
        """Does what `keras.Model.fit` does, for `x` without targets."""
        if kwargs.get("validation_data") is not None:
            validation_data = unsupervised.inputs_of(kwargs["validation_data"])
            kwargs["validation_data"] = self.prepare(validation_data)
        return super().fit(x, *args, **kwargs)

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        # Under a strategy Keras would average a batch over the replicas, to
        # build the model. It is built, and a boolean mask has no average.
        with self.distribute_strategy.scope():
            if self.optimizer is not None and not self.optimizer.built:
                self.optimizer.build(self.trainable_variables)

    def train_step(self, data):
        inputs = unsupervised.inputs_of(data)
        kl_weight = self._kl_weight
        if callable(kl_weight):
            kl_weight = kl_weight(self.optimizer.iterations)
        weights = self.trainable_weights
        with tf.GradientTape() as tape:
            loss = self._update_metrics(inputs, kl_weight, training=True)
            # Keras sums over replicas, each with its share of the batch.
            loss /= tf.distribute.get_strategy().num_replicas_in_sync
            loss = self.optimizer.scale_loss(loss)
        self.optimizer.apply(tape.gradient(loss, weights), weights)
        self._kept.note("train", [self])
        return self.get_metrics_result()

    def test_step(self, data):
        self._update_metrics(unsupervised.inputs_of(data), 1.0, training=False)
        self._kept.note("test", [self])
        return self.get_metrics_result()

    def predict_step(self, data):
        outputs = super().predict_step(data)
        self._kept.note("predict", [self])
        return outputs

    def _sample_terms(self, num_samples, seed, values, times, mask, targets):
        num_samples = as_count(num_samples, "num_samples")
        return self.run(
            self.terms,
            self.observe(as_inputs(values, times, mask, targets)),
            num_samples,
            False,
            self.seed(seed),
        )

    def run(self, function, *args, reads=None):
        """Calls a method; if eager, as one graph, see `KeptGraphs`.

        Args:
            function: Bound method.
            *args: Its arguments.
            reads: List of what it reads. Default `None`, the model.
        """
        if not tf.executing_eagerly():
            return function(*args)
        return self._kept.run(function, reads or [self], *args)

    def is_outdated(self, name):
        return not self._kept.is_current(name, [self])

    def seed(self, seed):
        """Returns the seed of a draw: from an integer, or the next one."""
        if is_integer_tensor(seed) and seed.shape == [2]:
            return seed
        if seed is not None:
            return tf.constant([as_int32(seed, "seed"), 0])
        return tf.cast(self._seeds.next(), tf.int32)

    def _update_metrics(self, inputs, kl_weight, training):
        """Updates the metrics with a batch, and returns its loss."""
        terms = self.terms(self.observe(inputs), self._num_samples, training)
        log_likelihood = tf.reduce_mean(terms.log_likelihood)
        kl = tf.reduce_mean(terms.kl)
        loss = tf.cast(kl_weight, kl.dtype) * kl - log_likelihood
        if training and self.losses:
            loss += tf.add_n([tf.cast(v, loss.dtype) for v in self.losses])
        # As Keras weights the batches of an epoch.
        size = tf.shape(terms.kl)[0]
        for metric, mean in (
            (self._loss, loss),
            (self._log_likelihood, log_likelihood),
            (self._kl, kl),
        ):
            metric.update_state(mean, sample_weight=size)
        if self._rmse is not None:
            self._rmse.update_state(terms.values, terms.means, terms.mask)
        self._nfe.update_state(terms.num_evaluations)
        return loss


def as_inputs(values, times, mask, targets=None):
    """Returns a batch of data as a dict of the arguments that are given.

    Raises:
        ValueError: If `values` is such a dict already, and others are given.
    """
    rest = {"times": times, "mask": mask, "targets": targets}
    if isinstance(values, dict):
        inputs = values
        given = [name for name, value in rest.items() if value is not None]
        if given:
            raise ValueError(
                "Data must be a dict alone, as for `fit`, or be given as "
                "separate arguments `values`, `times` and so on. "
                f"Received: a dict with keys {list(values)} and {given}"
            )
    else:
        inputs = {"values": values, **rest}
    return {k: v for k, v in inputs.items() if v is not None}


def _check_kl_weight(kl_weight):
    is_schedule = callable(kl_weight) and not isinstance(kl_weight, type)
    if not is_nonnegative(kl_weight) and not is_schedule:
        raise ValueError(
            "`kl_weight` must be a float, at least 0, or a callable of the "
            f"step. Received: kl_weight={kl_weight!r}"
        )
