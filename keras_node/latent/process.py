"""The computations of a `LatentODE`: encode, solve and decode."""

import dataclasses
import typing

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from keras_node.adjoints import Adjoint
from keras_node.common.nfe_metrics import NFE
from keras_node.dynamics.refused_layers import refuse_stateful_layers
from keras_node.dynamics.vector_field import VectorField
from keras_node.latent import component_checks, trajectory
from keras_node.likelihoods import Likelihood
from keras_node.solvers import requested_times


class Evaluation(typing.NamedTuple):
    """Latent trajectories, evaluated against observations.

    Attributes:
        log_likelihood: `(num_samples, batch)`, in nats.
        means: `(num_samples, batch, T, features)`, the mean observations.
        num_evaluations: Integer, the NFE; one, or one per clock.
    """

    log_likelihood: tf.Tensor
    means: tf.Tensor
    num_evaluations: tf.Tensor


@dataclasses.dataclass(frozen=True)
class LatentProcess:
    """The way from observations to a latent state, and along its trajectory.

    Attributes:
        encoder: Keras layer, from features to one vector for each series.
        posterior_head: Keras layer, from that vector to `2 * latent_dim`.
        field: `VectorField` of the latent state.
        decoder: Keras layer, from a latent state to the likelihood's outputs.
        likelihood: `Likelihood`.
        prior: `tfd.Distribution` of a latent state.
        initial_time: Float, the time of that state.
        solver: `tfp.math.ode.Solver`.
        adjoint: `Adjoint`.
        nfe_backward: `NFE` of backward passes.
        on_drift: Callable that gets backsolve's drift, or `None`.
    """

    encoder: keras.layers.Layer
    posterior_head: keras.layers.Layer
    field: VectorField
    decoder: keras.layers.Layer
    likelihood: Likelihood
    prior: tfp.distributions.Distribution
    initial_time: float
    solver: tfp.math.ode.Solver
    adjoint: Adjoint
    nfe_backward: NFE
    on_drift: typing.Callable | None

    @property
    def _latent_dim(self):
        return self.prior.event_shape[0]

    def build(self, observation_dim):
        """Makes all weights, for which no data are needed.

        Raises:
            ValueError: If a part does not fit the others.
        """
        dtype = self.prior.dtype.name
        num_features = 2 * observation_dim + 1
        encoded = self._encode(
            keras.KerasTensor((None, None, num_features), dtype),
            keras.KerasTensor((None, None), "bool"),
        )
        component_checks.check_encoded(encoded)
        component_checks.check_posterior(
            self.posterior_head(encoded), self._latent_dim
        )
        self.prior.log_prob(tf.zeros([1, self._latent_dim], dtype))
        z = keras.KerasTensor((None, self._latent_dim), dtype)
        if self.likelihood.window is not None:
            # The solve also evaluates the intensity.
            refuse_stateful_layers([self.decoder])
        self.field.build(requested_times.t_shape(self.solver), z)
        num_outputs = self.likelihood.num_outputs(observation_dim)
        component_checks.check_outputs(self.decoder(z), num_outputs)
        if not self.likelihood.built:  # A loaded one is built.
            self.likelihood.build((None, observation_dim))

    def posterior(self, observed, training=None):
        """Returns `q(z0 | x)` of `Observations`, `(batch, latent_dim)`."""
        return tfp.distributions.MultivariateNormalDiag(
            *self.posterior_parameters(observed, training)
        )

    def posterior_parameters(self, observed, training=None):
        """Returns mean and scale; the prior's for unobserved series."""
        is_observed = tf.reduce_any(observed.observed, axis=1, keepdims=True)
        encoded = self._encode(
            observed.encoder_inputs(self.initial_time),
            # An average over no observations would be 0 / 0, as would its
            # gradient, although it is not used.
            observed.observed | ~is_observed,
            training,
        )
        parameters = tf.cast(self.posterior_head(encoded), self.prior.dtype)
        loc, raw_scale = tf.split(parameters, 2, axis=-1)
        scale = tf.nn.softplus(raw_scale) + 1e-6
        prior_loc, prior_scale = component_checks.moments(self.prior)
        return (
            tf.where(is_observed, loc, prior_loc),
            tf.where(is_observed, scale, prior_scale),
        )

    def kl(self, posterior, log_ratio):
        """Returns `KL(q(z0 | x) || p(z0))`, `(batch,)`.

        Args:
            posterior: What `posterior` returned.
            log_ratio: `(num_samples, batch)`, `log p(z0) - log q(z0 | x)`, to
                estimate it where it has no closed form.
        """
        try:
            return tfp.distributions.kl_divergence(posterior, self.prior)
        except NotImplementedError:
            return -tf.reduce_mean(log_ratio, axis=0)

    def evaluate(self, z0, targets, training=None):
        """Returns the `Evaluation` of trajectories from `z0` on targets."""
        states, integral, num_evaluations = self._latent_states(
            z0, targets.times, training, self.likelihood.window
        )
        outputs = self._decode(states, training)
        log_likelihood = self.likelihood.log_prob(
            outputs, targets.values, targets.mask, targets.observed
        )
        return Evaluation(
            log_likelihood=log_likelihood - integral,
            means=self.likelihood.mean(outputs),
            num_evaluations=num_evaluations,
        )

    def means(self, z0, times, training=None):
        """Returns mean observations, `(samples, batch, T, features)`."""
        states, _, _ = self._latent_states(z0, times, training)
        return self.likelihood.mean(self._decode(states, training))

    def _encode(self, features, observed, training=None):
        return component_checks.call(
            self.encoder, features, mask=observed, training=training
        )

    def _latent_states(self, z0, times, training, window=None):
        """Returns latent states, an integral, and the NFE.

        The states are `(samples, batch, T, latent_dim)`; the integral is that
        of the likelihood's rate over the window, `(samples, batch)`, or 0
        without a window.
        """
        shape = tf.shape(z0)[:2]
        z = tf.reshape(z0, [-1, self._latent_dim])
        grid, integrals = times, []
        if window is not None:
            ends = tf.ones_like(times[..., :1])
            grid = tf.concat([window[0] * ends, times, window[1] * ends], -1)
            integrals = [tf.zeros_like(z[:, 0])]
        if grid.shape.rank == 2:
            grid = tf.tile(grid, [shape[0], 1])
        (states, integrals), num_evaluations = trajectory.solve_both_ways(
            self._ode_fn(training),
            (z, integrals),
            self.initial_time,
            grid,
            self.solver,
            self.adjoint,
            self.nfe_backward,
            self.on_drift,
        )
        integral = 0.0
        if window is not None:
            states = states[1:-1]
            integral = tf.reshape(integrals[0][-1] - integrals[0][0], shape)
        states = tf.reshape(
            states, tf.concat([[-1], shape, [self._latent_dim]], axis=0)
        )
        return tf.transpose(states, [1, 2, 0, 3]), integral, num_evaluations

    def _ode_fn(self, training):
        """Returns the dynamics of a state, and of integrals if any."""
        dynamics = self.field.bind(training)

        def ode_fn(t, state):
            z, integrals = state
            rates = []
            if integrals:
                outputs = component_checks.call(
                    self.decoder, z, training=training
                )
                rates = [self.likelihood.rate(tf.cast(outputs, z.dtype))]
            return dynamics(t, z), rates

        return ode_fn

    def _decode(self, states, training=None):
        """Returns the decoder's outputs along latent trajectories."""
        flat = tf.reshape(states, [-1, self._latent_dim])
        outputs = component_checks.call(self.decoder, flat, training=training)
        outputs = tf.cast(outputs, self.prior.dtype)
        shape = tf.concat([tf.shape(states)[:-1], tf.shape(outputs)[1:]], 0)
        shaped = tf.reshape(outputs, shape)
        return tf.ensure_shape(shaped, [*states.shape[:-1], outputs.shape[-1]])
