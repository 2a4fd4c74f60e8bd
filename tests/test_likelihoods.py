"""Likelihoods: what the decoder's outputs stand for."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import keras_node
from keras_node import likelihoods

tfd = tfp.distributions

OUTPUTS = tf.random.stateless_normal((5, 3, 4, 2), (1, 2))
COUNTS = np.floor(5 * np.random.default_rng(0).random((3, 4, 2)))
MASK = np.random.default_rng(1).random((3, 4, 2)) < 0.6


@pytest.mark.parametrize(
    ("identifier", "distribution"),
    [
        (likelihoods.NormalLikelihood(0.3), tfd.Normal(OUTPUTS, 0.3)),
        ("normal", tfd.Normal(OUTPUTS, 1.0)),
        ("bernoulli", tfd.Bernoulli(OUTPUTS)),
        ("poisson", tfd.Poisson(log_rate=OUTPUTS)),
        (lambda z: tfd.Laplace(z, 2.0), tfd.Laplace(OUTPUTS, 2.0)),
    ],
)
def test_log_prob_is_the_sum_over_what_was_observed(identifier, distribution):
    likelihood = likelihoods.get(identifier)
    likelihood.build((None, 2))
    values = (COUNTS % 2 if identifier == "bernoulli" else COUNTS).astype("f")
    actual = likelihood.log_prob(OUTPUTS, values, MASK, MASK.any(axis=-1))
    expected = np.sum(distribution.log_prob(values) * MASK, axis=(-2, -1))
    np.testing.assert_allclose(actual, expected, rtol=1e-5)
    np.testing.assert_allclose(likelihood.mean(OUTPUTS), distribution.mean())


def test_distribution_of_whole_observations_counts_the_whole_ones():
    def make(outputs):
        return tfd.MultivariateNormalDiag(outputs)

    likelihood = likelihoods.get(make)
    values = COUNTS.astype("f")
    actual = likelihood.log_prob(OUTPUTS, values, MASK, MASK.any(axis=-1))
    whole = MASK.all(axis=-1)
    expected = np.sum(make(OUTPUTS).log_prob(values) * whole, axis=-1)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_gradient_is_finite_where_a_masked_value_has_no_density():
    likelihood = likelihoods.get(lambda z: tfd.LogNormal(z, 1.0))
    values = np.where(MASK, COUNTS + 1, 0).astype("f")
    with tf.GradientTape() as tape:
        tape.watch(OUTPUTS)
        total = likelihood.log_prob(OUTPUTS, values, MASK, MASK.any(axis=-1))
    gradient = tape.gradient(total, OUTPUTS)
    assert np.all(np.isfinite(gradient))
    assert np.all((gradient != 0) == MASK)


def test_what_is_no_likelihood_is_told():
    with pytest.raises(ValueError, match="`likelihood` must be one of"):
        likelihoods.get("gauss")
    with pytest.raises(TypeError, match="`likelihood` must be a name"):
        likelihoods.get(3)
    with pytest.raises(ValueError, match="`scale` must be a positive float"):
        likelihoods.NormalLikelihood(-1.0)
    with pytest.raises(ValueError, match="`window` must be two floats"):
        likelihoods.PoissonProcessLikelihood((1.0, 0.0))
    with pytest.raises(TypeError, match="must return a `tfp.distributions"):
        likelihoods.get(lambda outputs: outputs).distribution(OUTPUTS)


@keras.saving.register_keras_serializable(package="test_likelihoods")
def make_laplace(outputs):
    return tfd.Laplace(outputs, 1.0)


def test_function_that_keras_cannot_find_again_is_told():
    with pytest.raises(ValueError, match="`make_distribution` must be"):
        likelihoods.get(lambda outputs: tfd.Normal(outputs, 1.0)).get_config()


@pytest.mark.parametrize(
    "likelihood",
    [
        likelihoods.get(make_laplace),
        likelihoods.NormalLikelihood(0.3),
        likelihoods.PoissonProcessLikelihood((0, 2), marks="bernoulli"),
    ],
)
def test_config_makes_an_equal_likelihood(likelihood):
    copy = likelihoods.get(likelihoods.serialize(likelihood))
    assert copy.get_config() == likelihood.get_config()


class Wave(keras.layers.Layer):
    """A decoder whose intensity is `2 + sin(t)` where `z = t`."""

    def call(self, inputs):
        return tf.math.log(tf.math.expm1(2.0 + tf.sin(inputs)))


WINDOW = (0.5, 6.0)


def _process():
    """Returns a model whose latent state is time, from 0 on."""
    return keras_node.LatentODE(
        observation_dim=0,
        latent_dim=1,
        dynamics=lambda t, z: tf.ones_like(z),
        decoder=Wave(),
        likelihood=likelihoods.PoissonProcessLikelihood(WINDOW),
        prior=tfd.MultivariateNormalDiag([0.0], [1e-6]),
        solver=keras_node.solvers.Tsit5(rtol=1e-6),
    )


def _log_likelihood(model, **data):
    z0 = tf.zeros((1, len(data["times"]), 1))
    inputs = {name: tf.constant(array) for name, array in data.items()}
    observed = model._observe(inputs)
    return model._process.evaluate(z0, observed).log_likelihood[0]


def test_poisson_process_of_a_known_intensity_has_its_likelihood():
    times = np.array([[0.7, 1.0, 3.3, 5.9], [0.6, 2.0, 2.0, 0.0]])
    mask = np.array([[True] * 4, [True] * 3 + [False]])
    actual = _log_likelihood(_process(), times=times, mask=mask)
    start, end = WINDOW
    integral = 2 * (end - start) - np.cos(end) + np.cos(start)
    log_rates = np.log(2 + np.sin(times)) * mask
    np.testing.assert_allclose(
        actual, log_rates.sum(axis=1) - integral, rtol=1e-4
    )


def test_series_without_events_has_the_integral_alone():
    model = _process()
    times = np.zeros((2, 3))
    elbo = model.elbo(times=times, mask=np.zeros((2, 3), bool))
    start, end = WINDOW
    integral = 2 * (end - start) - np.cos(end) + np.cos(start)
    np.testing.assert_allclose(elbo, -integral, rtol=1e-4)


def test_event_outside_of_the_window_is_told():
    with pytest.raises(ValueError, match="within the window"):
        _process().elbo(times=np.array([[0.2, 1.0]]))


@pytest.mark.slow
def test_marks_and_intensity_are_learned_and_served_together(tmp_path):
    likelihood = likelihoods.PoissonProcessLikelihood((0, 2), marks="normal")
    model = keras_node.LatentODE(2, 2, likelihood=likelihood, solver="rk4")
    times = np.sort(np.random.default_rng(0).uniform(0, 2, (4, 5)), axis=1)
    data = {"values": np.ones((4, 5, 2)), "times": times.astype("f")}
    model.compile("adam")
    history = model.fit(data, verbose=0).history
    assert np.isfinite(history["loss"][0])
    mean = model.reconstruct(**data)
    assert mean.shape == (4, 5, 3)
    assert np.all(mean[..., 0] > 0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.reconstruct(**data), mean)


@pytest.mark.slow
def test_process_without_marks_is_served(tmp_path):
    model = _process()
    model.export(tmp_path / "served")
    served = tf.saved_model.load(tmp_path / "served")
    times, mask = tf.constant([[0.7, 1.0, 3.3]]), tf.constant([[1, 1, 0]]) > 0
    mean = served.signatures["reconstruct"](
        values=tf.zeros((1, 3, 0)), times=times, mask=mask, target_times=times
    )["mean"]
    expected = model.reconstruct(times=times, mask=mask, target_times=times)
    np.testing.assert_allclose(mean, expected, atol=1e-5)


def test_marks_need_a_likelihood_and_values():
    process = likelihoods.PoissonProcessLikelihood
    for dim, marks in ((2, None), (0, "normal")):
        with pytest.raises(ValueError, match="Events with values need"):
            keras_node.LatentODE(dim, 2, likelihood=process((0, 1), marks))
    with pytest.raises(ValueError, match="to tell the number of samples"):
        _process().elbo(times=np.array([1.0, 2.0]))


def test_decoder_of_a_process_must_not_draw_noise():
    decoder = keras.Sequential(
        [keras.layers.Dropout(0.5), keras.layers.Dense(1)]
    )
    with pytest.raises(ValueError, match="not draw noise"):
        keras_node.LatentODE(
            0,
            2,
            decoder=decoder,
            likelihood=likelihoods.PoissonProcessLikelihood((0, 1)),
        )


@pytest.mark.parametrize("family", [tfd.LogitNormal, tfd.Cauchy])
def test_likelihood_without_a_mean_has_a_bound(family):
    model = keras_node.LatentODE(
        1,
        2,
        decoder=keras.layers.Dense(1),
        likelihood=lambda outputs: family(outputs, 1.0),
        solver="euler",
    )
    mask = np.array([[True, False, True]])
    values = np.full((1, 3, 1), 0.3)
    with tf.GradientTape() as tape:
        elbo = model.elbo(values, [0.0, 0.5, 1.0], mask, seed=1)
    gradient = tape.gradient(elbo, model.decoder.trainable_variables)
    assert np.all(np.isfinite(elbo))
    assert all(np.all(np.isfinite(part)) for part in gradient)


@pytest.mark.slow
def test_simulated_intensity_is_recovered():
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    batch, most = 400, 30
    times, mask = np.full((batch, most), 9.9), np.zeros((batch, most), bool)
    for row, seen in zip(times, mask, strict=True):
        # Thinning: of a process of rate 3, keep what the intensity keeps.
        count = rng.poisson(3.0 * (WINDOW[1] - WINDOW[0]))
        events = np.sort(rng.uniform(*WINDOW, count))
        events = events[rng.random(count) < (2 + np.sin(events)) / 3][:most]
        row[: len(events)], seen[: len(events)] = events, True
    model = keras_node.LatentODE(
        observation_dim=0,
        latent_dim=2,
        dynamics=lambda t, z: tf.stack([-z[..., 1], z[..., 0]], axis=-1),
        likelihood=likelihoods.PoissonProcessLikelihood(WINDOW),
        prior=tfd.MultivariateNormalDiag([1.0, 0.0], [1e-3, 1e-3]),
        solver=keras_node.solvers.RK4(step_size=0.5),
    )
    model.compile(keras.optimizers.Adam(0.01))
    data = {"times": times, "mask": mask}
    model.fit(data, batch_size=50, epochs=20, verbose=0)
    grid = np.linspace(*WINDOW, 40)
    intensity = model.generate(1, grid)[0, :, 0]
    # 400 series of 11 events: the estimate is good to a few percent.
    np.testing.assert_allclose(intensity, 2 + np.sin(grid), atol=0.35)
