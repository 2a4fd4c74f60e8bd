"""LatentODE: data, bounds, uses, errors."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import keras_node
from keras_node import likelihoods

tfd = tfp.distributions

TIMES = np.linspace(0.0, 1.0, 6).astype("float32")


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    model = keras_node.LatentODE(observation_dim=2, latent_dim=3)
    model.compile(keras.optimizers.Adam(1e-2))
    return model


def _values(batch=4, times=6, features=2):
    shape = (batch, times, features)
    return tf.random.stateless_normal(shape, (1, 2)).numpy()


def _private_times(batch=4, times=6):
    rng = np.random.default_rng(3)
    return np.sort(rng.uniform(0, 1, (batch, times)), axis=1).astype("float32")


@pytest.mark.slow
def test_masked_point_is_as_good_as_a_dropped_one(model):
    values, times = _values(), _private_times()
    mask = np.ones((4, 6), bool)
    mask[:, [2, 5]] = False
    kept = {"values": values[:, [0, 1, 3, 4]], "times": times[:, [0, 1, 3, 4]]}
    masked = {"values": values, "times": times, "mask": mask}
    for use in (model.elbo, model.importance_weighted_bound):
        np.testing.assert_allclose(
            use(**masked, num_samples=3, seed=1),
            use(**kept, num_samples=3, seed=1),
            atol=1e-5,
        )
    np.testing.assert_allclose(
        model.reconstruct(**masked, target_times=TIMES),
        model.reconstruct(**kept, target_times=TIMES),
        atol=1e-5,
    )


def test_point_dropped_from_shared_times_is_as_good_as_masked(model):
    values, mask = _values(), np.ones((4, 6), bool)
    mask[:, [0, 3, 5]] = False
    rest = [1, 2, 4]
    masked = model.elbo(values, TIMES, mask, seed=1)
    kept = model.elbo(values[:, rest], TIMES[rest], seed=1)
    np.testing.assert_allclose(masked, kept, atol=1e-5)


def test_sample_that_misses_a_shared_time_is_told_its_own_gaps(model):
    values = _values(2)
    mask = np.array([[1, 0, 0, 1, 0, 1], [1, 1, 1, 1, 1, 1]], bool)
    masked = model.encode(values, TIMES, mask)
    kept = model.encode(values[:1, mask[0]], TIMES[mask[0]][None])
    np.testing.assert_allclose(masked.mean()[:1], kept.mean(), atol=1e-6)
    np.testing.assert_allclose(masked.stddev()[:1], kept.stddev(), atol=1e-6)


def test_masked_feature_has_no_influence(model):
    values = _values()
    mask = np.ones(values.shape, bool)
    mask[0, 2, 1] = False
    losses = []
    for value in (0.0, 1e3, np.nan):
        values[0, 2, 1] = value
        losses.append(model.elbo(values, TIMES, mask, seed=1))
    np.testing.assert_array_equal(losses[0], losses[1])
    np.testing.assert_array_equal(losses[0], losses[2])
    # What is not a number is masked by itself.
    np.testing.assert_array_equal(losses[0], model.elbo(values, TIMES, seed=1))


@pytest.mark.parametrize("padding", [np.nan, 0.0, 1e9])
def test_padding_changes_nothing(model, padding):
    values, times = _values(), _private_times()
    expected = model.elbo(values, times, seed=1)
    tail = np.full((4, 3, 2), padding, "float32")
    padded = np.concatenate([values, tail], axis=1)
    padded_times = np.concatenate([times, tail[..., 0]], axis=1)
    mask = np.arange(9) < np.full((4, 1), 6)
    actual = model.elbo(padded, padded_times, mask, seed=1)
    np.testing.assert_allclose(actual, expected, atol=1e-5)


@pytest.mark.parametrize("times", [TIMES, _private_times()], ids=["one", "own"])
def test_permuting_the_batch_permutes_the_result(model, times):
    values, order = _values(), [2, 0, 3, 1]
    own = times if times.ndim == 1 else times[order]
    np.testing.assert_allclose(
        model.reconstruct(values[order], own, target_times=TIMES + 0.5),
        model.reconstruct(values, times, target_times=TIMES + 0.5).numpy()[
            order
        ],
        atol=1e-5,
    )


def test_trajectory_reaches_before_between_and_after_the_observations():
    model = _rotation(initial_time=0.5)
    z0 = model.encode(_values(3, 6, 2), TIMES).mean().numpy()
    target_times = np.array([-1.0, 0.2, 0.5, 0.5, 0.9, 3.0])
    actual = model.reconstruct(
        _values(3, 6, 2), TIMES, target_times=target_times
    )
    angles = target_times - 0.5
    cos, sin = np.cos(angles), np.sin(angles)
    expected = np.stack(
        [
            z0[:, :1] * cos - z0[:, 1:] * sin,
            z0[:, :1] * sin + z0[:, 1:] * cos,
        ],
        axis=-1,
    )
    np.testing.assert_allclose(actual, expected, atol=2e-4)
    own = np.tile(target_times, (3, 1))
    actual = model.reconstruct(_values(3, 6, 2), TIMES, target_times=own)
    np.testing.assert_allclose(actual, expected, atol=2e-4)


class Same(keras.layers.Layer):
    """A decoder that shows the latent state."""

    def call(self, inputs):
        return inputs


def _rotation(**kwargs):
    kwargs.setdefault("decoder", Same())
    return keras_node.LatentODE(
        observation_dim=2,
        latent_dim=2,
        dynamics=lambda t, z: tf.stack([-z[..., 1], z[..., 0]], axis=-1),
        solver=keras_node.solvers.Tsit5(rtol=1e-6),
        **kwargs,
    )


@pytest.mark.parametrize("rank", [1, 2])
def test_hidden_points_are_predicted_at_their_own_times(model, rank):
    values = _values(1)
    mask = np.array([[True, False, False, True, False, False]])
    times = TIMES if rank == 1 else TIMES[None]
    expected = model.reconstruct(values, times, mask, target_times=times)
    np.testing.assert_array_equal(
        model.reconstruct(values, times, mask), expected
    )
    for padding in (np.nan, 0.0):
        padded = np.concatenate(
            [times[..., :-1], times[..., -1:] * padding], -1
        )
        actual = model.reconstruct(values, padded, mask)
        np.testing.assert_allclose(actual[:, :5], expected[:, :5], atol=1e-4)
        assert np.all(np.isfinite(actual))


@pytest.mark.slow
def test_gradients_flow_to_every_part_whatever_the_times():
    model = keras_node.LatentODE(2, 3, initial_time=0.4)
    for times in (TIMES, _private_times()):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(model.elbo(_values(), times, seed=1))
        for weight, gradient in zip(
            model.trainable_variables,
            tape.gradient(loss, model.trainable_variables),
            strict=True,
        ):
            assert gradient is not None, weight.path
            assert np.all(np.isfinite(gradient)), weight.path
            assert np.any(gradient != 0), weight.path


@pytest.mark.slow
@pytest.mark.parametrize("adjoint", ["backsolve", "direct"])
def test_adjoints_agree_where_times_are_equal(adjoint):
    # Before, at and after the initial time, with ties and a padded tail.
    times = np.tile([0.0, 0.4, 0.4, 0.9, 0.9, 0.9], (4, 1))
    mask = np.ones((4, 6), bool)
    mask[:, 4:] = False
    gradients = []
    for name in ("checkpoint", adjoint):
        keras.utils.set_random_seed(0)
        model = keras_node.LatentODE(
            2,
            3,
            initial_time=0.4,
            adjoint=name,
            solver=keras_node.solvers.Tsit5(rtol=1e-5, atol=1e-6),
            dynamics=keras.layers.Dense(3, "tanh"),
        )
        with tf.GradientTape() as tape:
            elbo = model.elbo(_values(), times, mask, seed=1)
        gradients.append(tape.gradient(elbo, model.trainable_variables))
    for one, other in zip(*gradients, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-3)


def test_prior_with_weights_is_trained():
    flow = keras_node.CNFBijector(
        keras.layers.Dense(2), solver=keras_node.solvers.RK4()
    )
    normal = tfd.MultivariateNormalDiag(tf.Variable([1.0, 0.0]), tf.ones(2))
    prior = tfd.TransformedDistribution(normal, flow)
    model = keras_node.LatentODE(2, 2, prior=prior, solver="euler")
    model.compile("adam")
    before = [tf.identity(v) for v in prior.trainable_variables]
    assert len(before) == 3
    model.fit({"values": _values(), "times": TIMES}, verbose=0)
    for old, new in zip(before, prior.trainable_variables, strict=True):
        assert np.any(old != new)


class Constant(keras.layers.Layer):
    """An encoder whose output is a constant."""

    def __init__(self, value):
        super().__init__()
        self.value = value

    def call(self, inputs):
        return tf.ones_like(inputs[:, 0, :1]) * self.value


def _linear_gaussian(posterior_loc, posterior_scale):
    """Returns `x_i = z0 + noise`, with a posterior of our choice."""
    model = keras_node.LatentODE(
        observation_dim=1,
        latent_dim=1,
        encoder=Constant(1.0),
        decoder=Same(),
        dynamics=lambda t, z: 0.0 * z,
        likelihood=likelihoods.NormalLikelihood(0.5),
    )
    raw_scale = np.log(np.expm1(posterior_scale))
    model._posterior_head.set_weights(
        [np.zeros((1, 2)), np.array([posterior_loc, raw_scale])]
    )
    return model


def _evidence_and_posterior(x, scale=0.5):
    n = len(x)
    precision = 1.0 + n / scale**2
    loc = x.sum() / scale**2 / precision
    covariance = scale**2 * np.eye(n) + np.ones((n, n))
    log_evidence = tfd.MultivariateNormalFullCovariance(
        np.zeros(n), covariance
    ).log_prob(x.astype("float64"))
    return float(log_evidence), loc, precision**-0.5


def test_bound_is_the_evidence_where_the_posterior_is_exact():
    x = np.array([0.3, 1.1, 0.8, 0.2], "float32")
    log_evidence, loc, scale = _evidence_and_posterior(x)
    model = _linear_gaussian(loc, scale)
    data = {"values": x[None, :, None], "times": [0.0, 0.3, 0.4, 2.0]}
    elbo = model.elbo(**data, num_samples=20_000, seed=1)[0]
    # log p(x | z0) of a sample has a standard deviation of about 0.7.
    assert abs(elbo - log_evidence) < 4 * 0.7 / np.sqrt(20_000)
    bound = model.importance_weighted_bound(**data, num_samples=8, seed=1)[0]
    # Each weight is the evidence itself.
    assert abs(bound - log_evidence) < 1e-4


@pytest.mark.slow
def test_bounds_of_another_posterior_rise_to_the_evidence():
    x = np.array([0.3, 1.1, 0.8, 0.2], "float32")
    log_evidence, loc, scale = _evidence_and_posterior(x)
    model = _linear_gaussian(loc + 0.2, 1.5 * scale)
    copies = np.tile(x[None, :, None], (500, 1, 1))
    data = {"values": copies, "times": [0.0, 0.3, 0.4, 2.0]}
    bounds = [np.mean(model.elbo(**data, num_samples=400, seed=1))]
    for count in (4, 64):
        bounds.append(
            np.mean(
                model.importance_weighted_bound(
                    **data, num_samples=count, seed=1
                )
            )
        )
    gap = tfd.kl_divergence(
        tfd.Normal(loc + 0.2, 1.5 * scale), tfd.Normal(loc, scale)
    )
    assert abs(bounds[0] - (log_evidence - gap)) < 0.02
    assert bounds[0] < bounds[1] - 0.1 < bounds[2] - 0.1 < log_evidence
    assert bounds[2] > log_evidence - 0.02


def test_kl_is_that_of_tfp(model):
    posterior = model.encode(_values(), TIMES)
    expected = tfd.kl_divergence(posterior, model.prior)
    inputs = {"values": tf.constant(_values()), "times": tf.constant(TIMES)}
    terms = model.terms(model.observe(inputs), 2, seed=tf.constant([1, 2]))
    np.testing.assert_allclose(terms.kl, expected, rtol=1e-6)


def test_kl_without_a_closed_form_is_estimated():
    prior = tfd.MultivariateNormalDiag(tf.zeros(2))
    mixture = tfd.MixtureSameFamily(
        tfd.Categorical(probs=[0.5, 0.5]),
        tfd.MultivariateNormalDiag(tf.zeros((2, 2))),
    )
    keras.utils.set_random_seed(0)
    exact = keras_node.LatentODE(1, 2, prior=prior)
    model = keras_node.LatentODE(1, 2, prior=mixture)
    model.set_weights(exact.get_weights())
    data = {"values": _values(2, 6, 1), "times": TIMES}
    np.testing.assert_allclose(
        model.elbo(**data, num_samples=4000, seed=1),
        exact.elbo(**data, num_samples=4000, seed=1),
        atol=0.1,
    )


def test_sample_without_observations_has_the_prior(model):
    mask = np.ones((4, 6), bool)
    mask[1] = False
    posterior = model.encode(_values(), TIMES, mask)
    np.testing.assert_array_equal(posterior.mean()[1], np.zeros(3))
    np.testing.assert_array_equal(posterior.stddev()[1], np.ones(3))
    elbo = model.elbo(_values(), TIMES, mask, seed=1)
    assert elbo[1] == 0.0
    assert np.all(np.isfinite(elbo))
    others = model.elbo(_values(), TIMES, seed=1)
    np.testing.assert_allclose(elbo[2:], others[2:], atol=1e-5)
    own = model.elbo(_values(), _private_times(), mask, seed=1)
    assert own[1] == 0.0 and np.all(np.isfinite(own))


def test_private_times_cost_few_evaluations():
    keras.utils.set_random_seed(0)
    model = keras_node.LatentODE(2, 4)
    rng = np.random.default_rng(0)
    values = rng.normal(size=(64, 50, 2)).astype("float32")
    own = np.sort(rng.uniform(0, 1, (64, 50)), axis=1)
    shared = np.linspace(0, 1, 50)
    nfe = []
    for times in (shared, own):
        inputs = {"values": tf.constant(values), "times": tf.constant(times)}
        terms = model.terms(model.observe(inputs), 1, seed=tf.constant([1, 2]))
        nfe.append(np.max(terms.num_evaluations))
    assert nfe[1] <= 3 * nfe[0]
    assert nfe[1] < 64


@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
def test_fit_shows_its_metrics_and_lowers_the_loss(jit_compile):
    keras.utils.set_random_seed(0)
    model = keras_node.LatentODE(
        2, 3, solver=keras_node.solvers.RK4(), dynamics=keras.layers.Dense(3)
    )
    model.compile(keras.optimizers.Adam(0.02), jit_compile=jit_compile)
    values = np.cumsum(np.ones((16, 6, 2), "float32"), axis=1)
    data = {"values": values, "times": TIMES, "mask": np.ones((16, 6))}
    history = model.fit(data, epochs=8, verbose=0).history
    assert set(history) == {
        "loss",
        "log_likelihood",
        "kl",
        "rmse",
        "nfe",
        "nfe_backward",
    }
    assert history["loss"][-1] < history["loss"][0]
    # One step of four evaluations for each interval, forwards in time.
    assert history["nfe"][-1] == 20
    # Each of the two solves takes one to know the size of what it keeps.
    assert history["nfe_backward"][-1] == 2
    for loss, log_likelihood, kl in zip(
        history["loss"], history["log_likelihood"], history["kl"], strict=True
    ):
        np.testing.assert_allclose(loss, kl - log_likelihood, rtol=1e-5)


@pytest.mark.slow
def test_fit_takes_datasets_targets_and_validation_data(model):
    data = {
        "values": _values(8),
        "times": _private_times(8),
        "mask": np.ones((8, 6, 2), bool),
        "targets": {"values": _values(8, 3), "times": TIMES[:3] + 1.0},
    }
    history = model.fit(
        data, batch_size=4, validation_data=data, epochs=1, verbose=0
    ).history
    assert np.isfinite(history["val_loss"][0])
    dataset = tf.data.Dataset.from_tensor_slices(
        {"values": _values(8), "times": _private_times(8)}
    ).batch(4)
    assert np.isfinite(model.evaluate(dataset, verbose=0)[0])
    prediction = model.predict(data, verbose=0, batch_size=3)
    assert prediction.shape == (8, 3, 2)
    expected = model.reconstruct(
        data["values"], data["times"], target_times=TIMES[:3] + 1.0
    )
    np.testing.assert_allclose(prediction, expected, atol=1e-4)


def test_each_sample_has_the_same_weight_in_a_metric(model):
    values = (
        _values(batch=5) * np.array([1.0, 1.0, 1.0, 1.0, 9.0])[:, None, None]
    )
    data = {"values": values.astype("float32"), "times": TIMES}
    logs = [
        model.evaluate(data, batch_size=size, verbose=0, return_dict=True)
        for size in (5, 4)
    ]
    # The only one without samples of the posterior.
    np.testing.assert_allclose(logs[1]["kl"], logs[0]["kl"], rtol=1e-5)


def test_kl_weight_may_follow_a_schedule():
    model = keras_node.LatentODE(2, 2, solver="euler")
    schedule = keras.optimizers.schedules.PolynomialDecay(0.0, 10, 1.0)
    model.compile("sgd", kl_weight=schedule, num_samples=2)
    data = {"values": _values(), "times": TIMES}
    logs = model.fit(data, verbose=0).history
    np.testing.assert_allclose(
        logs["loss"][0], -logs["log_likelihood"][0], rtol=1e-6
    )
    losses = model.evaluate(data, verbose=0, return_dict=True)
    np.testing.assert_allclose(
        losses["loss"], losses["kl"] - losses["log_likelihood"], rtol=1e-5
    )


@pytest.mark.parametrize(
    "encoder", ["rnn", pytest.param("ode_rnn", marks=pytest.mark.slow)]
)
def test_saved_model_is_the_same_and_goes_on_training(encoder, tmp_path):
    keras.utils.set_random_seed(0)
    model = keras_node.LatentODE(2, 3, encoder=encoder, solver="heun")
    model.compile("adam", num_samples=2, kl_weight=0.5)
    data = {"values": _values(), "times": TIMES}
    model.fit(data, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(
        loaded.reconstruct(**data), model.reconstruct(**data)
    )
    assert loaded.get_compile_config() == model.get_compile_config()
    np.testing.assert_allclose(
        loaded.fit(data, verbose=0).history["kl"],
        model.fit(data, verbose=0).history["kl"],
        rtol=1e-5,
    )


@pytest.mark.slow
def test_export_serves_any_batch_size_and_number_of_times(model, tmp_path):
    model.export(tmp_path / "served")
    served = tf.saved_model.load(tmp_path / "served")
    for batch, count in ((4, 6), (2, 3)):
        values = _values(batch, count)
        times, mask = _private_times(batch, count), values > -0.5
        targets = np.tile(TIMES + 0.5, (batch, 1))
        answer = served.signatures["reconstruct"](
            values=tf.constant(values),
            times=tf.constant(times),
            mask=tf.constant(mask),
            target_times=tf.constant(targets),
        )
        expected = model.reconstruct(values, times, mask, targets)
        np.testing.assert_allclose(answer["mean"], expected, atol=1e-6)
        posterior = served.signatures["encode"](
            values=tf.constant(values),
            times=tf.constant(times),
            mask=tf.constant(mask),
        )
        np.testing.assert_allclose(
            posterior["scale"],
            model.encode(values, times, mask).stddev(),
            atol=1e-6,
        )
    samples = served.signatures["generate"](
        num_samples=tf.constant(7), times=tf.constant(TIMES)
    )
    assert samples["samples"].shape == (7, 6, 2)


def test_band_holds_the_mass_that_it_promises(model):
    result = model.reconstruct(
        _values(), TIMES, num_samples=400, credible_mass=0.5, seed=1
    )
    inside = (result.samples >= result.lower) & (result.samples <= result.upper)
    share = np.mean(inside, axis=0)
    np.testing.assert_allclose(share, 0.5, atol=0.01)
    np.testing.assert_allclose(
        result.mean, np.mean(result.samples, axis=0), atol=1e-6
    )


def test_seeds_repeat_and_their_absence_does_not(model):
    for use in (
        lambda seed: model.generate(3, TIMES, seed=seed),
        lambda seed: model.elbo(_values(), TIMES, seed=seed),
    ):
        np.testing.assert_array_equal(use(1), use(1))
        assert np.any(use(None) != use(None))


def test_generated_series_follow_the_prior():
    model = _rotation(prior=tfd.MultivariateNormalDiag([3.0, 0.0], [0.1, 0.1]))
    series = model.generate(500, [0.0, np.pi / 2], seed=1)
    np.testing.assert_allclose(
        np.mean(series, axis=0), [[3.0, 0.0], [0.0, 3.0]], atol=0.03
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"values": np.zeros((4, 6, 3))}, "values of shape"),
        ({"values": np.zeros((4, 6))}, "must be of shape"),
        ({"values": np.zeros((4, 5, 2))}, "must agree"),
        ({"times": TIMES[::-1].copy()}, "ascending order"),
        ({"times": np.zeros((3, 6))}, "must agree"),
        ({"times": np.zeros((4, 1, 6))}, "`times` must be of shape"),
        ({"times": np.full(6, np.nan)}, "must be finite"),
        ({"mask": np.ones(6)}, "`mask` must be of shape"),
        ({"mask": np.ones((4, 5))}, "must agree"),
        ({"mask": np.ones((4, 6, 3))}, "must agree"),
        ({"labels": np.zeros(4)}, "keys among"),
        (
            {"values": np.full((4, 6, 2), np.inf), "mask": np.ones((4, 6))},
            "`values` must be finite",
        ),
    ],
)
def test_data_that_do_not_fit_are_told(model, change, message):
    data = {"values": _values(), "times": TIMES, **change}
    with pytest.raises(ValueError, match=message):
        model.fit(data, verbose=0)


def test_other_data_than_dicts_are_refused(model):
    with pytest.raises(ValueError, match="must be a dict"):
        model.fit(_values(), verbose=0)
    with pytest.raises(ValueError, match="learns from its inputs"):
        model.fit({"values": _values(), "times": TIMES}, np.zeros(4))
    with pytest.raises(ValueError, match="Keras drops `sample_weight`"):
        model.fit(
            {"values": _values(), "times": TIMES}, sample_weight=np.ones(4)
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"latent_dim": 0}, "`latent_dim` a positive one"),
        ({"observation_dim": -1}, "`observation_dim` must be"),
        ({"likelihood": "gauss"}, "`likelihood` must be one of"),
        ({"encoder": "transformer"}, "`encoder` must be one of"),
        ({"encoder": keras.layers.Dense(3)}, "maps a series to one vector"),
        ({"decoder": keras.layers.Dense(5)}, "what the likelihood needs"),
        ({"dynamics": keras.layers.Dense(5)}, "the state's shape"),
        ({"prior": tfd.Normal(0.0, 1.0)}, "`prior` must be one distribution"),
        ({"likelihood": lambda outputs: None}, "needs a `decoder`"),
        (
            {
                "likelihood": likelihoods.PoissonProcessLikelihood(
                    (-1, 1), marks="normal"
                )
            },
            "must not begin before",
        ),
    ],
)
def test_parts_that_do_not_fit_are_told(options, message):
    options = {"observation_dim": 2, "latent_dim": 3, **options}
    with pytest.raises(ValueError, match=message):
        keras_node.LatentODE(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_samples": 0}, "`num_samples` must be"),
        ({"kl_weight": -1.0}, "`kl_weight` must be"),
        ({"loss": "mse"}, "its own loss"),
        ({"metrics": ["mae"]}, "its own loss and metrics"),
    ],
)
def test_compile_refuses_what_it_cannot_use(model, options, message):
    with pytest.raises(ValueError, match=message):
        model.compile("adam", **options)


def test_bound_of_an_unobserved_sample_stays_below_the_evidence():
    prior = tfd.MixtureSameFamily(
        tfd.Categorical(logits=[0.0, 0.0]),
        tfd.MultivariateNormalDiag([[-2.0], [2.0]], [[0.5], [0.5]]),
    )
    model = keras_node.LatentODE(
        1,
        1,
        prior=prior,
        decoder=Same(),
        dynamics=lambda t, z: 0.0 * z,
        likelihood=likelihoods.NormalLikelihood(1.0),
    )
    nothing = np.full((1, 1, 1), np.nan)
    targets = {"values": np.ones((1, 1, 1)), "times": [0.0]}
    elbo = model.elbo(nothing, [0.0], targets=targets, num_samples=4000, seed=1)
    marginal = tfd.Normal([-2.0, 2.0], np.float32(np.hypot(0.5, 1.0)))
    log_evidence = np.log(np.mean(marginal.prob(1.0)))
    assert elbo[0] < log_evidence - 0.1


def test_average_over_no_observation_spoils_no_gradient():
    encoder = keras.layers.GlobalAveragePooling1D()
    model = keras_node.LatentODE(1, 2, encoder=encoder, solver="euler")
    values = np.array([[[1.0], [2.0]], [[np.nan], [np.nan]]])
    with tf.GradientTape() as tape:
        elbo = model.elbo(values, [0.0, 1.0], seed=1)
    for gradient in tape.gradient(elbo, model.trainable_variables):
        assert np.all(np.isfinite(gradient))


def test_times_that_run_together_in_float32_are_told(model):
    data = {"values": _values(), "times": 1e8 + TIMES.astype("float64")}
    with pytest.raises(ValueError, match="must keep their digits"):
        model.predict(data, verbose=0)


def test_bound_works_within_a_function(model):
    elbo = tf.function(lambda values: model.elbo(values, TIMES, seed=1))
    np.testing.assert_allclose(
        elbo(tf.constant(_values())),
        model.elbo(_values(), TIMES, seed=1),
        atol=1e-5,
    )


def test_validation_data_may_be_a_tuple():
    model = keras_node.LatentODE(2, 2, solver="euler")
    model.compile("sgd")
    data = {"values": _values(), "times": TIMES}
    history = model.fit(data, validation_data=(data, None), verbose=0).history
    assert np.isfinite(history["val_loss"][0])


def test_prior_that_is_none_is_told():
    with pytest.raises(TypeError, match="must be a tfp distribution"):
        keras_node.LatentODE(2, 2, prior="normal")
