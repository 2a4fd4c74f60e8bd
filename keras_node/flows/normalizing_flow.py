"""`NormalizingFlow`: a density that is trained as a Keras model."""

import operator

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from keras_node import objectives
from keras_node.common import keras_internals, tfp_variables, unsupervised
from keras_node.common.arguments import is_integer
from keras_node.common.conversion import as_floats
from keras_node.common.random_numbers import Seeds
from keras_node.dynamics.probe_noise import are_watched
from keras_node.flows import building, checks, export
from keras_node.flows.bijector_kwargs import (
    call_options,
    needs_condition,
    takes_condition,
)
from keras_node.flows.cache_versions import pinned
from keras_node.flows.sampled_base import as_distribution, has_density
from keras_node.flows.velocity_matching import VelocityMatching
from keras_node.saving import configs, tfp_objects


@keras.saving.register_keras_serializable(package="keras_node")
class NormalizingFlow(unsupervised.UnsupervisedModel):
    """A normalizing flow: a simple density, transformed by a bijector.

    With `z` drawn from the base distribution and `x = g(z)`,

        log p(x) = log p_base(g^-1(x)) + log |det dg^-1/dx|

    `fit(x)` maximises the likelihood of data, or, after
    `compile(optimizer, objective="flow_matching")`, regresses the vector field
    on paths from base to data, which solves no ODE; `fit_to_density` finds the
    flow closest to a density that is known up to a factor. The loss of `fit`
    is the mean of `-log p(x)`, in nats, plus the penalties of the flow's
    regularizers, or that of the regression; `evaluate` returns the mean of
    `-log p(x)` alone, `predict` returns `log p(x)` of each sample.

    Every variable in the bijector and the distribution is trained, Keras's or
    TensorFlow's, including those of networks in functions of a bijector. All
    are made by the constructor or, if dynamics take a condition, by the first
    call or by `flow.build({"x": (None, 2), "condition": (None, 3)})`, with the
    sizes of the data.

    Args:
        bijector: A tfp bijector, such as a `CNFBijector`, or a `tfb.Chain` of
            several, each `CNFBijector` with a different name.
        base_distribution: A tfp distribution whose events are inputs of the
            bijector; or, for flow matching, an object whose method `sample(n)`
            or `sample(n, seed)` returns a float tensor `(n, event)`. Of such,
            and of a `tfd.Empirical`, there is no density: `evaluate` returns
            the loss of the regression.
        **kwargs: Other arguments of `keras.Model`.

    Call arguments:
        inputs: Float tensor `(batch, event)`; or, for a conditional density,
            a dict `{"x": (batch, event), "condition": (batch, features)}`.
            The same goes for `fit`, `evaluate` and `predict`.
        training: Boolean, passed to the flows.

    Output shape:
        `(batch,)`, the log-density in nats; of a base without a density, minus
        the loss of the regression.

    Raises:
        ValueError: If the events of bijector and base do not fit, two flows
            share a name, or a trainable variable appears after the first call.
        TypeError: If `bijector` or `base_distribution` is not a tfp object,
            or was given a `keras.Variable`.

    Example:
    >>> flow = keras_node.NormalizingFlow(
    ...     keras_node.CNFBijector(keras_node.PlanarDynamics(8)),
    ...     tfp.distributions.MultivariateNormalDiag(tf.zeros(2)),
    ... )
    >>> flow.compile(keras.optimizers.Adam(1e-2))
    >>> history = flow.fit(tf.random.normal((64, 2)), epochs=1, verbose=0)
    >>> flow.sample(5).shape
    TensorShape([5, 2])

    Reference:
    - [Chen et al., 2018, section 4](https://arxiv.org/abs/1806.07366)
    """

    citations = ("chen2018",)

    def __init__(self, bijector, base_distribution, **kwargs):
        base_distribution = as_distribution(base_distribution)
        checks.check_types(bijector, base_distribution)
        checks.check_events(bijector, base_distribution)
        kwargs.setdefault("dtype", base_distribution.dtype.name)
        super().__init__(**kwargs)
        self.bijector = bijector
        self.base_distribution = base_distribution
        self.distribution = tfp.distributions.TransformedDistribution(
            base_distribution, bijector
        )
        checks.check_variables(self.distribution)
        # Keras tracks the layers in a list, not those inside a chain.
        self._flows = tfp_variables.layers_of(self.distribution)
        checks.check_names(self._flows)
        self._traced_options = {}
        self._networks = []
        self._adopted = []
        self._adopt()
        self.condition_shape = None
        self._seeds = Seeds()
        self._target_log_prob = None
        self._has_density = has_density(base_distribution)
        self._set_objective(
            "likelihood" if self._has_density else "flow_matching"
        )
        if not any(takes_condition(flow) for flow in self._flows):
            self._make_weights(None)
            self.built = True

    def build(self, input_shape):
        condition = None
        if isinstance(input_shape, dict) and "condition" in input_shape:
            self.condition_shape = tuple(input_shape["condition"])
            # Not a tensor: one of a graph could not be used outside of it.
            condition = np.zeros(
                self.condition_shape[-1:],
                self.distribution.dtype.as_numpy_dtype,
            )
        if not self.built:
            self._make_weights(condition)
        self.built = True

    def _make_weights(self, condition):
        options = call_options(self.bijector, condition, False)
        read = building.make_weights(self.distribution, options)
        self._adopt()
        checks.warn_of_untracked(read, self.variables)

    def _adopt(self):
        """Tracks the weights that exist and are not tracked yet."""
        layers, variables = tfp_variables.find(self.distribution)
        known = {id(layer) for layer in [*self._flows, *self._networks]}
        self._networks.extend(
            layer for layer in layers if id(layer) not in known
        )
        known = {id(variable.value) for variable in self._adopted}
        self._adopted.extend(
            keras_internals.adopt(variable, trainable)
            for variable, trainable in variables
            if id(variable) not in known and id(variable.value) not in known
        )

    def load_weights(self, filepath, *args, **kwargs):
        """Does what `keras.Model.load_weights` does.

        A flow that was never called is built first, without a condition. If
        it needs one, call `build` before.
        """
        if not needs_condition(self.bijector):
            self._build_without_condition()
        return super().load_weights(filepath, *args, **kwargs)

    def _build_without_condition(self):
        if not self.built:
            self.build((None, *self.distribution.event_shape))

    def prepare(self, x):
        """Makes all weights before callbacks begin; returns the data.

        Keras would do so in the first step, but a backup callback needs a
        model that is built.
        """
        spec = unsupervised.spec_of(x)
        if self.built or spec is None:
            return x
        shapes = tf.nest.map_structure(lambda leaf: tuple(leaf.shape), spec)
        if isinstance(spec, dict):
            checks.check_keys(spec)
        with self.distribute_strategy.scope():
            self.build(shapes)
        return x

    def is_outdated(self, name):
        """Whether a solver or adjoint was replaced since this was asked."""
        flows = [flow for flow in self._flows if hasattr(flow, "solver")]
        options = [option for f in flows for option in (f.solver, f.adjoint)]
        before = self._traced_options.get(name, options)
        self._traced_options[name] = options
        return any(map(operator.is_not, options, before))

    def compile(self, *args, objective="likelihood", **kwargs):
        """Does what `keras.Model.compile` does, without a loss.

        Args:
            *args: As those of `keras.Model.compile`: the optimizer.
            objective: Objective identifier, see `keras_node.objectives.get`:
                `"likelihood"` (default) or `"flow_matching"`.
            **kwargs: Other arguments of `keras.Model.compile`.

        Raises:
            ValueError: If the objective does not fit the bijector or the base.
            TypeError: If it is of a class that flows do not know.
        """
        self._set_objective(objective)
        super().compile(*args, **kwargs)

    def _set_objective(self, objective):
        objective, matching = objectives.get(objective), None
        if isinstance(objective, objectives.FlowMatching):
            matching = VelocityMatching(
                self.bijector, self.base_distribution, objective
            )
        else:
            checks.check_likelihood(objective, self.base_distribution)
        self.objective, self._matching = objective, matching
        # SciPy runs on the host.
        self.supports_jit = matching is None or not objective.needs_scipy

    def get_compile_config(self):
        """Returns the arguments of `compile`, for saving."""
        config = super().get_compile_config()
        if config:
            config["objective"] = objectives.serialize(self.objective)
        return config

    def compile_from_config(self, config):
        """Compiles as the result of `get_compile_config` says."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.optimizer is not None and self.built:
            self.optimizer.build(self.trainable_variables)

    def predict(self, *args, **kwargs):
        """Does what `keras.Model.predict` does: returns log-densities."""
        checks.check_density(self.base_distribution)
        return super().predict(*args, **kwargs)

    def call(self, inputs, training=None):
        if training and self._target_log_prob is not None:
            return self._log_density_ratio(tf.shape(inputs)[0])
        x, condition = inputs, None
        if isinstance(inputs, dict):
            checks.check_keys(inputs)
            x, condition = inputs["x"], inputs["condition"]
        if self._matching is not None and (training or not self._has_density):
            return -self._matching_losses(x, condition, training)
        return self._log_prob(x, condition, training)

    def compute_output_shape(self, input_shape):
        if isinstance(input_shape, dict):
            input_shape = input_shape["x"]
        return tuple(input_shape[:1])

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        """Returns the mean of `-y_pred`, in training plus the penalties."""
        if self.loss is not None:
            raise ValueError(
                "A `NormalizingFlow` has its own loss, the negative "
                "log-likelihood: compile it without `loss`. "
                f"Received: loss={self.loss!r}"
            )
        if y is not None:
            raise ValueError(
                "A `NormalizingFlow` takes no targets: `fit(x)`. For a "
                'conditional density, use `fit({"x": x, "condition": c})`. '
                f"Received: targets {y}"
            )
        total = -tf.reduce_mean(y_pred)
        if training and self.losses:
            total += tf.add_n([tf.cast(v, total.dtype) for v in self.losses])
        # Keras sums over replicas, each with its share of the batch.
        return total / tf.distribute.get_strategy().num_replicas_in_sync

    def log_prob(self, x, condition=None, training=None):
        """Returns the log-density in nats, `(...)`.

        Args:
            x: Float tensor `(..., event)`.
            condition: Float tensor `(..., features)`, if the density has one.
            training: Boolean: training estimates the trace as `fit` does,
                with new noise, else it is that of evaluation. `None` (default)
                counts as training if a tape watches the weights.
        """
        if training is None:
            self._options(condition, False)  # Builds.
            training = are_watched(self.trainable_variables)
        return self._log_prob(x, condition, training)

    def sample(self, sample_shape=(), condition=None, seed=None):
        """Returns samples, `(*sample_shape, event)`.

        Args:
            sample_shape: Integer or tuple of them. Default `()`, one sample.
            condition: Float tensor `(..., features)` that broadcasts against
                the samples, if the density has one.
            seed: Integer, or pair of them as in tfp, for the same samples
                again; `None` (default) for new ones.
        """
        checks.check_sample_shape(sample_shape)
        checks.check_seed(seed)
        if is_integer(seed):
            seed = int(seed)  # tfp takes no integers of numpy.
        options = self._options(condition, False)
        with pinned(), building.refusing_new_weights():
            return self.distribution.sample(
                sample_shape, seed=seed, bijector_kwargs=options
            )

    def fit_to_density(
        self,
        target_log_prob,
        batch_size=256,
        epochs=1,
        steps_per_epoch=100,
        **kwargs,
    ):
        """Fits the flow to a density that is known up to a factor.

        Minimises the reverse divergence `KL(q || p)`, where `q` is the flow's
        density, with new samples of `q` in each step. The loss, in nats, is

            E_q[log q(x) - log p(x)]

        which is the divergence minus the logarithm of the factor.

        Args:
            target_log_prob: Callable of `x`, `(batch, event)`, that returns
                `log p(x)`, `(batch,)`, up to a constant.
            batch_size: Integer, samples in a step. Default 256.
            epochs: Integer. Default 1.
            steps_per_epoch: Integer. Default 100.
            **kwargs: Other arguments of `fit`, without data.

        Returns:
            The `keras.callbacks.History` of `fit`.

        Reference:
        - [Rezende & Mohamed, 2015, section 6.1](https://arxiv.org/abs/1505.05770)
        """
        if not callable(target_log_prob):
            raise TypeError(
                "`target_log_prob` must be a function of x. "
                f"Received: target_log_prob={target_log_prob!r}"
            )
        checks.check_density(self.base_distribution)
        # Samples are drawn anew in each step. The data give only the size and,
        # to build the model under a strategy, the shape.
        shape = [batch_size, *self.distribution.event_shape]
        samples = tf.data.Dataset.from_tensors(tf.zeros(shape))
        self._target_log_prob = target_log_prob
        # Keras would reuse the function that it traced for `fit`.
        self.make_train_function(force=True)
        try:
            return self.fit(
                samples.repeat(),
                shuffle=False,
                epochs=epochs,
                steps_per_epoch=steps_per_epoch,
                **kwargs,
            )
        finally:
            self._target_log_prob = None
            self.train_function = None

    def export(self, path, options=None):
        """Writes a SavedModel, which can be served without `keras_node`.

        Its signatures, with any batch size:

        - `log_prob(x)` returns `log_prob`, `(batch,)`, in nats;
        - `sample(num_samples)` returns `x`, new samples in each call;
        - `forward(z)` returns `x`, `inverse(x)` returns `z`.

        Those of a conditional flow also take `condition`, `(batch, features)`.

        Args:
            path: String, the directory to write.
            options: `tf.saved_model.SaveOptions`. Default `None`: TensorFlow's
                defaults, with which a loaded model has the adjoint's gradients.

        Raises:
            ValueError: If a conditional flow was never called, so that the
                size of its condition is not known.
        """
        if self.condition_shape is None and needs_condition(self.bijector):
            raise ValueError(
                "A conditional flow must be fitted or called on "
                '{"x": ..., "condition": ...} before it is exported, to know '
                f"the size of its condition. Received: {self.name!r}, "
                "not built"
            )
        self._build_without_condition()
        export.write_flow(self, path, options)

    def _options(self, condition, training):
        if condition is not None:
            condition = as_floats(
                condition, "condition", self.distribution.dtype
            )
        options = call_options(self.bijector, condition, training)
        if not self.built:
            shape = (None, *self.distribution.event_shape)
            if condition is not None:
                shape = {"x": shape, "condition": tuple(condition.shape)}
            self.build(shape)
        return options

    def _log_prob(self, x, condition, training):
        # A new tensor: for an old one, tfp would return what it cached, even
        # if that was sampled before a step of training.
        x = tf.identity(as_floats(x, "x", self.distribution.dtype))
        options = self._options(condition, training)
        checks.check_density(self.base_distribution)
        with pinned(), building.refusing_new_weights():
            return self.distribution.log_prob(x, bijector_kwargs=options)

    def _next_seed(self):
        """Returns a new seed, `(2,)`, of this replica."""
        seed = tf.cast(self._seeds.next(), tf.int32)
        replica = tf.distribute.get_replica_context()
        if replica is None or replica.num_replicas_in_sync == 1:
            return seed
        # A sum would be the seed of another replica's next step.
        number = replica.replica_id_in_sync_group
        return tf.random.fold_in(seed, number, alg="philox")

    def _matching_losses(self, x, condition, training):
        """Returns the squared errors of the regression, `(batch,)`."""
        x = as_floats(x, "x", self.distribution.dtype)
        if condition is not None:
            condition = as_floats(
                condition, "condition", self.distribution.dtype
            )
        self._options(condition, training)  # Builds and checks.
        with building.refusing_new_weights():
            return self._matching.losses(
                x, condition, training, self._next_seed()
            )

    def _log_density_ratio(self, count):
        """Returns `log p(x) - log q(x)` of new samples from `q`."""
        seed = self._next_seed()
        options = self._options(None, True)
        with pinned(), building.refusing_new_weights():
            z = self.base_distribution.sample(count, seed=seed)
            x = self.bijector.forward(z, **options)
            log_q = self.base_distribution.log_prob(z)
            log_q -= self.bijector.forward_log_det_jacobian(
                z, len(self.base_distribution.event_shape), **options
            )
        log_p = self._target_log_prob(x)
        if log_p.shape != log_q.shape:
            raise ValueError(
                "`target_log_prob` must return one number for each sample. "
                f"Received: shape {log_p.shape} for samples of {x.shape}"
            )
        return log_p - log_q

    def get_config(self):
        config = super().get_config()
        config.update(
            tfp_objects.serialize(
                {
                    "bijector": self.bijector,
                    "base_distribution": self.base_distribution,
                }
            )
        )
        return configs.stamp(config)

    @classmethod
    def from_config(cls, config):
        config = configs.read_version(cls, config)
        # Together, as they may share objects.
        parts = {
            name: config[name]
            for name in ("bijector", "base_distribution")
            if name in config
        }
        with configs.reading(cls.__name__, parts):
            parts = tfp_objects.deserialize(parts)
        return configs.from_config(cls, {**config, **parts})
