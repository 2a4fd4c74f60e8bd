"""`LatentODE`: a generative model of irregular time series."""

import typing

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from keras_node import adjoints, likelihoods, solvers
from keras_node.common import (
    observation_checks,
    observations,
    random_numbers,
    tfp_variables,
)
from keras_node.common.arguments import as_time, is_positive
from keras_node.common.conversion import as_count
from keras_node.common.state import solved_dtype
from keras_node.dynamics.vector_field import VectorField
from keras_node.integration.options import Solving
from keras_node.latent import (
    batch_axes,
    component_checks,
    encoders,
    export,
    prediction_times,
)
from keras_node.latent.process import LatentProcess
from keras_node.latent.variational import Terms, VariationalModel, as_inputs
from keras_node.saving import configs, tfp_objects


class Reconstruction(typing.NamedTuple):
    """Time series at the requested times, with a credible band.

    Attributes:
        mean: Float tensor `(batch, T, features)`, the mean of the samples.
        lower: Float tensor of the same shape, the lower end of the band.
        upper: Float tensor of the same shape, the upper end of the band.
        samples: Float tensor `(num_samples, batch, T, features)`, each the
            mean observation along one latent trajectory.
    """

    mean: tf.Tensor
    lower: tf.Tensor
    upper: tf.Tensor
    samples: tf.Tensor


@keras.saving.register_keras_serializable(package="keras_node")
class LatentODE(Solving, VariationalModel):
    """A latent ODE: irregular time series as a trajectory seen through noise.

    Each series has a latent state at `initial_time`, inferred from all of its
    observations. The dynamics carry it to any time before, between or after
    them:

        z0 ~ p(z0),  dz/dt = f(t, z),  x_i ~ p(x | decoder(z(t_i)))

    `fit` maximises a lower bound of the likelihood, with the approximate
    posterior `q(z0 | x)`, a normal distribution given by the encoder:

        log p(x) >= E_q[sum_i log p(x_i | z(t_i))] - KL(q(z0 | x) || p(z0))

    **Data** are dicts of arrays, or a `tf.data.Dataset` of batches of them:

    - `values`: floats `(batch, T, observation_dim)`.
    - `times`: floats `(T,)`, the same for all samples, or `(batch, T)`,
      different for each sample, which takes no more steps; ascending, with
      ties allowed.
    - `mask`: optional, `(batch, T)` or `(batch, T, observation_dim)`, true
      where something was observed. Times and values elsewhere may be
      anything, such as the padding of short series. Default: true where
      values are not NaN. The posterior of a sample without observations is
      the prior, or the normal distribution of the prior's mean and deviation.
    - `targets`: optional, a dict of the same three, to predict instead of the
      values themselves; for `predict`, its `times` suffice.

    `fit` shows the loss, which is the negative bound in nats per series; its
    two terms, `log_likelihood` and `kl`; the root mean square error `rmse` of
    observed values; and `nfe` and `nfe_backward`, the numbers of function
    evaluations. `predict` returns the mean of the observations along the
    trajectory of the posterior's mean.

    Args:
        observation_dim: Integer, features of an observation; 0 for events
            that have none.
        latent_dim: Positive integer, size of the latent state.
        encoder: `"rnn"` (default) or `"ode_rnn"`, see
            `keras_node.latent.encoders.get`; or a Keras layer that maps
            features `(batch, T, 2 * observation_dim + 1)` (values, mask, time
            gap to the observation before), with the Keras mask `(batch, T)`,
            to `(batch, units)`, such as `keras.layers.GRU(25,
            go_backwards=True)`.
        dynamics: The vector field `f`, as for `ODELayer`. Default `None`, a
            network of `z` with one hidden layer of 32 tanh units.
        decoder: Keras layer of `(batch, latent_dim)`, whose output is what
            the likelihood needs, for most `(batch, observation_dim)`. Default
            `None`, a network with one hidden layer of 32 tanh units.
        likelihood: Likelihood identifier, see `keras_node.likelihoods.get`:
            `"normal"` (default), `"bernoulli"`, `"poisson"`, an object, or a
            callable that makes a `tfd.Distribution` of the decoder's output.
        prior: `tfd.Distribution` of `(latent_dim,)`. Default `None`, the
            standard normal.
        initial_time: Float, the time of `z0`, in the units of `times`; best
            at or shortly before the first observations. Default 0.0.
        solver: Solver identifier, see `keras_node.solvers.get`. Default
            `"tsit5"`.
        adjoint: Adjoint identifier, see `keras_node.adjoints.get`. Default
            `"auto"`: exact gradients where the solver allows it.
        posterior_head: Keras layer from the encoder's output to `(batch,
            2 * latent_dim)`, the mean of `q(z0 | x)` and its deviation before
            a softplus. Default `None`, a linear layer.
        **kwargs: Other arguments of `keras.Model`.

    Raises:
        ValueError: If an argument is out of its range, a part does not fit
            the others, or data have the wrong shapes or are not sorted.
        TypeError: If an argument is of the wrong kind.
        tf.errors.InvalidArgumentError: If a solve fails and the solver has
            `on_failure="raise"`; also, where a graph cannot raise a
            `ValueError`, for times that are not sorted.

    Example:
    >>> model = keras_node.LatentODE(observation_dim=2, latent_dim=4)
    >>> model.compile("adam")
    >>> times = np.linspace(0, 1, 5)
    >>> data = {"values": np.zeros((8, 5, 2)), "times": times}
    >>> history = model.fit(data, verbose=0)
    >>> model.reconstruct(**data, target_times=[0.5, 2.0]).shape
    TensorShape([8, 2, 2])

    Reference:
    - [Chen et al., 2018, section 5](https://arxiv.org/abs/1806.07366)
    - [Rubanova et al., 2019](https://arxiv.org/abs/1907.03907)
    """

    citations = ("chen2018", "rubanova2019")

    def __init__(
        self,
        observation_dim,
        latent_dim,
        encoder="rnn",
        dynamics=None,
        decoder=None,
        likelihood="normal",
        prior=None,
        initial_time=0.0,
        solver="tsit5",
        adjoint="auto",
        posterior_head=None,
        **kwargs,
    ):
        component_checks.check_dims(observation_dim, latent_dim)
        super().__init__(observation_dim > 0, autocast=False, **kwargs)
        policy = self.dtype_policy
        # Half precision is too coarse for states and distributions.
        dtype = solved_dtype(tf.as_dtype(self.compute_dtype))
        self.observation_dim = int(observation_dim)
        self.latent_dim = int(latent_dim)
        self.encoder = encoders.get(encoder, policy)
        self.dynamics = component_checks.or_default(
            dynamics, latent_dim, policy
        )
        self._field = VectorField(self.dynamics, self)
        self.likelihood = likelihoods.get(likelihood)
        num_outputs = self.likelihood.num_outputs(self.observation_dim)
        self.decoder = component_checks.or_default(decoder, num_outputs, policy)
        component_checks.check_decoder(self.decoder)
        if prior is None:
            prior = component_checks.standard_normal(latent_dim, dtype)
        self.prior = prior
        component_checks.check_prior(self.prior, latent_dim, dtype)
        self.initial_time = as_time(initial_time, "initial_time")
        self._set_options(solver, adjoint, "drift")
        if posterior_head is None:
            posterior_head = keras.layers.Dense(2 * latent_dim, dtype=policy)
        self._posterior_head = posterior_head
        component_checks.check_posterior_head(posterior_head)
        self._prior_layers = tfp_variables.layers_of(self.prior)
        self._prior_variables = tfp_variables.adopted_variables(
            self.prior, self._prior_layers
        )
        component_checks.check_window(self.likelihood.window, self.initial_time)
        self._process.build(self.observation_dim)
        self._field_layers = self._field.held_layers()
        self._field.warn_of_untracked()
        self.built = True

    def _options_changed(self):
        super()._options_changed()
        self._make_drift()
        if self.compiled:
            jit_compile = self._compile_options.get("jit_compile", "auto")
            # Keras chooses again if it is `None`.
            self.jit_compile = (
                None
                if jit_compile == "auto"
                else jit_compile and self.supports_jit
            )

    @property
    def posterior_head(self):
        """The layer between encoder and posterior."""
        return self._posterior_head

    @property
    def _process(self):
        # Made anew each time: solver and adjoint may be replaced.
        return LatentProcess(
            encoder=self.encoder,
            posterior_head=self._posterior_head,
            field=self._field,
            decoder=self.decoder,
            likelihood=self.likelihood,
            prior=self.prior,
            initial_time=self.initial_time,
            solver=self.solver,
            adjoint=self.adjoint,
            nfe_backward=self._nfe_backward,
            on_drift=self._report_drift(),
        )

    def call(self, inputs, training=None):
        observed = self._observe(inputs)
        if inputs.get("targets") is not None:
            times = prediction_times.query_times(inputs["targets"])
        else:
            times = prediction_times.times_as_given(inputs, observed)
        z0 = self._process.posterior(observed, training).mean()
        return self._process.means(z0[None], times, training)[0]

    def encode(self, values=None, times=None, mask=None):
        """Returns `q(z0 | x)`, a `tfd.Distribution` of `(batch, latent_dim)`.

        Args:
            values: Float tensor `(batch, T, observation_dim)`; or a dict of
                data as for `fit`, in place of all three arguments.
            times: Floats, `(T,)` or `(batch, T)`.
            mask: See the class. Default `None`.
        """
        observed = self._observe(as_inputs(values, times, mask))
        return self._posterior(observed)

    def reconstruct(
        self,
        values=None,
        times=None,
        mask=None,
        target_times=None,
        num_samples=None,
        credible_mass=0.9,
        seed=None,
    ):
        """Returns the mean of observations at any times.

        Args:
            values: Float tensor `(batch, T, observation_dim)`; or a dict of
                data as for `fit`, in place of the first three arguments.
            times: Floats, `(T,)` or `(batch, T)`.
            mask: See the class. Default `None`.
            target_times: Floats in ascending order, `(T,)` or `(batch, T)`,
                in the units of `times`: before, between and after these.
                Default `None`: those of the `targets` in a dict, or `times`,
                including masked ones.
            num_samples: Positive integer, how many latent trajectories to draw
                from the posterior; or `None` (default) for the trajectory of
                its mean.
            credible_mass: Float in (0, 1), the share of the trajectories that
                the band contains, at each time. Default 0.9.
            seed: Integer for the same samples again, or `None` (default).

        Returns:
            Float tensor `(batch, T, features)`; with `num_samples`, a
            `Reconstruction` of mean, lower and upper end of the band, and
            samples. The features are those observed; for a point process,
            the intensity and then the marks.
        """
        if num_samples is not None:
            num_samples = as_count(num_samples, "num_samples")
            _check_mass(credible_mass)
        inputs = as_inputs(values, times, mask)
        observed = self._observe(inputs)
        targets = inputs.get("targets")
        if target_times is not None:
            targets = {"times": target_times}
        if targets is None:
            times = prediction_times.times_as_given(inputs, observed)
        else:
            observations.check_keys(targets)
            batch_size = observed.values.shape[0]
            times = prediction_times.query_times(targets, batch_size)
        if num_samples is None:
            return self.run(self._mean_reconstruction, observed, times)
        samples = self.run(
            self._sample_reconstructions,
            observed,
            times,
            num_samples,
            self.seed(seed),
        )
        tail = 50.0 * (1.0 - credible_mass)
        lower, upper = tfp.stats.percentile(
            samples, [tail, 100.0 - tail], axis=0, interpolation="linear"
        )
        mean = tf.reduce_mean(samples, axis=0)
        return Reconstruction(mean, lower, upper, samples)

    def generate(self, num_samples, times=None, seed=None):
        """Returns time series from the prior, `(num_samples, T, features)`.

        Each is the mean observation along a latent trajectory.

        Args:
            num_samples: Positive integer; or a dict of data as for `fit`, in
                place of `times` too, for as many series at the same times.
            times: Floats in ascending order, `(T,)`.
            seed: Integer for the same samples again, or `None` (default).
        """
        if isinstance(num_samples, dict):
            inputs = as_inputs(num_samples, times, None)
            observed = self._observe(inputs)
            num_samples = observed.values.shape[0]
            if num_samples is None:
                num_samples = tf.shape(observed.values)[0]
            times = prediction_times.times_as_given(inputs, observed)
        else:
            num_samples = as_count(num_samples, "num_samples")
            times = prediction_times.query_times({"times": times})
        return self.run(self._generate, num_samples, times, self.seed(seed))

    def export(self, path, options=None):
        """Writes a SavedModel, which can be served without `keras_node`.

        Its signatures, with any batch size and any number of times:

        - `encode(values, times, mask)` returns `loc` and `scale` of the
          posterior;
        - `reconstruct(values, times, mask, target_times)` returns the `mean`;
        - `generate(num_samples, times)` returns `samples`.

        Args:
            path: String, the directory to write.
            options: `tf.saved_model.SaveOptions`. Default `None`: TensorFlow's
                defaults, with which a loaded model has the adjoint's gradients.
        """
        export.write_latent_ode(self, path, options)

    def observe(self, inputs):
        """Returns the `Observations` of a batch, and those to predict."""
        observed = self._observe(inputs)
        return observed, self._targets(inputs, observed)

    def terms(self, observed, num_samples, training=False, seed=None):
        """Returns the `Terms` of the bound for a batch of data."""
        observed, targets = observed
        posterior = self._posterior(observed, training)
        z0 = self._sample(posterior, num_samples, self.seed(seed))
        evaluated = self._process.evaluate(z0, targets, training)
        log_ratio = self.prior.log_prob(z0) - posterior.log_prob(z0)
        # A point process has its intensity before the features.
        first = evaluated.means.shape[-1] - self.observation_dim
        means = tf.reduce_mean(evaluated.means[..., first:], axis=0)
        return Terms(
            log_likelihood=evaluated.log_likelihood,
            log_ratio=log_ratio,
            kl=self._process.kl(posterior, log_ratio),
            values=targets.values,
            mask=targets.mask,
            means=means,
            num_evaluations=evaluated.num_evaluations,
        )

    def prepare(self, x):
        """Returns arrays that Keras can cut into batches, checked."""
        if isinstance(x, dict):
            observed = self._observe(x)
            targets = x.get("targets")
            if targets is not None:
                observations.check_keys(targets)
                # For `predict`, times suffice.
                if "values" in targets:
                    self._targets(x, observed)
        return batch_axes.with_batch_axes(x)

    def _observe(self, inputs):
        return observations.observations_of(
            inputs,
            self.observation_dim,
            self.initial_time,
            self.prior.dtype,
            self.likelihood.window,
        )

    def _targets(self, inputs, observed):
        """Returns the `Observations` to predict: the targets, if given."""
        if inputs.get("targets") is None:
            return observed
        targets = self._observe(inputs["targets"])
        observation_checks.check_targets(targets.values, observed.values)
        return targets

    def _posterior(self, observed, training=None):
        parameters = self.run(
            self._process.posterior_parameters,
            observed,
            training,
            reads=[
                self.encoder,
                self._posterior_head,
                self.initial_time,
                self.prior,
                *self._prior_layers,
            ],
        )
        return tfp.distributions.MultivariateNormalDiag(*parameters)

    def _mean_reconstruction(self, observed, times):
        z0 = self._posterior(observed).mean()
        return self._process.means(z0[None], times)[0]

    def _sample_reconstructions(self, observed, times, num_samples, seed):
        posterior = self._posterior(observed)
        z0 = self._sample(posterior, num_samples, seed)
        return self._process.means(z0, times)

    def _sample(self, posterior, num_samples, seed):
        """Returns samples of `z0`, `(num_samples, batch, latent_dim)`."""
        loc, dtype = posterior.mean(), posterior.dtype

        def draw(size, seed):
            shape = [size, num_samples, self.latent_dim]
            return random_numbers.normal(shape, seed, dtype)

        draws = random_numbers.sample(draw, tf.shape(loc)[0], seed)
        return loc + posterior.stddev() * tf.transpose(draws, [1, 0, 2])

    def _generate(self, num_samples, times, seed):
        z0 = random_numbers.sample(self.prior.sample, num_samples, seed)
        return self._process.means(z0[None], times)[0]

    def get_config(self):
        config = super().get_config()
        config.update(
            {
                "observation_dim": self.observation_dim,
                "latent_dim": self.latent_dim,
                "encoder": keras.saving.serialize_keras_object(self.encoder),
                "dynamics": configs.serialize_dynamics(self.dynamics),
                "decoder": keras.saving.serialize_keras_object(self.decoder),
                "likelihood": likelihoods.serialize(self.likelihood),
                "prior": tfp_objects.serialize(self.prior),
                "initial_time": self.initial_time,
                "solver": solvers.serialize(self.solver),
                "adjoint": adjoints.serialize(self.adjoint),
                # As it is now: it may be quantized, or have LoRA.
                "posterior_head": keras.saving.serialize_keras_object(
                    self.posterior_head
                ),
            }
        )
        return configs.stamp(config)

    @classmethod
    def from_config(cls, config):
        return configs.from_config(
            cls,
            config,
            dynamics=configs.deserialize,
            decoder=configs.deserialize,
            posterior_head=configs.deserialize,
            prior=tfp_objects.deserialize,
        )


def _check_mass(credible_mass):
    if not is_positive(credible_mass) or not credible_mass < 1:
        raise ValueError(
            "`credible_mass` must be a float between 0 and 1, the share of "
            f"trajectories in the band. Received: {credible_mass=}"
        )
