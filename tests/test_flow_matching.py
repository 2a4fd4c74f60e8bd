"""`NormalizingFlow.compile(objective="flow_matching")`."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import keras_node
from keras_node import CNFBijector, ConcatTime, NormalizingFlow
from keras_node.flows.velocity_matching import VelocityMatching
from keras_node.objectives import FlowMatching

tfb, tfd = tfp.bijectors, tfp.distributions
SEED = tf.constant([3, 4])


@pytest.fixture(autouse=True)
def seed():
    keras.utils.set_random_seed(0)


def _normal(location=0.0, scale=1.0):
    return tfd.MultivariateNormalDiag(
        tf.fill([2], location), tf.fill([2], scale)
    )


def _field(units=16):
    dense = keras.layers.Dense
    return ConcatTime(keras.Sequential([dense(units, "tanh"), dense(2)]))


def _flow(base=None, **kwargs):
    cnf = CNFBijector(_field(), solver=keras_node.solvers.RK4(0.1), **kwargs)
    return NormalizingFlow(cnf, base or _normal())


def _data(count=256):
    noise = np.random.default_rng(0).normal(size=(count, 2))
    return (noise * 0.5 + 2.0).astype("float32")


def _loss(flow, x):
    return flow.evaluate(x, verbose=0, return_dict=True)["loss"]


@keras.saving.register_keras_serializable(package="tests")
class Ring:
    """Samples on a circle, without a density."""

    def sample(self, n, seed):
        angle = tf.random.stateless_uniform([n], seed, maxval=2 * np.pi)
        return tf.stack([tf.cos(angle), tf.sin(angle)], axis=1)

    def get_config(self):
        return {}

    @classmethod
    def from_config(cls, config):
        return cls(**config)


def test_the_loss_is_least_at_the_optimum_of_two_normals():
    # From N(0, 1) to N(2, 1/4) the field that regression aims at is
    # m + (s^2 t - (1 - t)) / ((1 - t)^2 + s^2 t^2) (x - m t).
    x = tf.constant(_data(100_000))

    def loss(weight):
        def field(t, y):
            t = tf.reshape(t, [-1, 1])
            spread = (1 - t) ** 2 + 0.25 * t**2
            return 2.0 + weight * (0.25 * t - (1 - t)) / spread * (y - 2.0 * t)

        matching = VelocityMatching(
            CNFBijector(field), _normal(), FlowMatching()
        )
        return float(tf.reduce_mean(matching.losses(x, None, True, SEED)))

    low, middle, high = map(loss, [0.0, 1.0, 2.0])
    # The loss is a parabola in the weight.
    vertex = 1.0 + 0.5 * (low - high) / (low - 2 * middle + high)
    np.testing.assert_allclose(vertex, 1.0, atol=0.02)


def test_fit_learns_a_density_without_a_solve():
    x = _data(4096)
    flow = _flow()
    flow.compile(keras.optimizers.Adam(0.01), objective="flow_matching")
    before = _loss(flow, x)
    history = flow.fit(x, epochs=8, batch_size=128, verbose=0).history
    assert history["loss"][-1] < history["loss"][0]
    assert history["cnf_nfe"] == [0.0] * 8
    # In nats, and those of the data's own density.
    after = _loss(flow, x)
    best = -float(tf.reduce_mean(_normal(2.0, 0.5).log_prob(x)))
    assert before > best + 1.0
    assert best - 0.02 < after < best + 0.1
    np.testing.assert_allclose(
        -flow.predict(x, verbose=0).mean(), after, rtol=1e-5
    )
    samples = flow.sample(2000, seed=1)
    np.testing.assert_allclose(tf.reduce_mean(samples, 0), 2.0, atol=0.1)


def test_a_likelihood_fit_may_follow():
    flow = _flow()
    flow.compile("adam", objective="flow_matching")
    flow.fit(_data(), verbose=0)
    flow.compile("adam")
    history = flow.fit(_data(), verbose=0).history
    assert history["cnf_nfe"][0] > 0.0
    np.testing.assert_allclose(
        history["loss"][0], _loss(flow, _data()), atol=0.5
    )


def test_the_velocity_is_that_of_the_bijectors_own_times():
    def field(t, y):
        t = tf.reshape(t, [-1, 1])
        return tf.concat([t + 0.0 * y[:, :1], tf.ones_like(y[:, 1:])], axis=1)

    objective = FlowMatching()
    cnf = CNFBijector(field, times=(2.0, -1.0))
    matching = VelocityMatching(cnf, _normal(), objective)
    x = tf.constant(_data(16))
    losses = matching.losses(x, None, True, SEED)
    seeds = tf.unstack(tf.random.split(SEED, 2))
    share, _, way = objective.path(
        _normal().sample(16, seed=seeds[0]), x, seeds[1]
    )
    expected = (2 - 3 * share + way[:, 0] / 3) ** 2 + (1 + way[:, 1] / 3) ** 2
    np.testing.assert_allclose(losses, expected, rtol=1e-5)


def test_bijectors_around_are_inverted():
    field, x = _field(), tf.constant(_data(16))
    cnf = CNFBijector(field)
    back = CNFBijector(field, times=(1.0, 0.0))
    shift = tfb.Shift([1.0, -1.0])
    base = _normal()
    plain = VelocityMatching(cnf, base, FlowMatching())
    expected = plain.losses(x, None, True, SEED)
    moved = tfd.MultivariateNormalDiag([-1.0, 1.0], [1.0, 1.0])
    for bijector, data, start in [
        (tfb.Chain([tfb.Exp(), cnf]), tf.exp(x), base),
        (tfb.Chain([tfb.Invert(tfb.Log()), tfb.Invert(back)]), tf.exp(x), base),
        (tfb.Invert(tfb.Chain([back, tfb.Log()])), tf.exp(x), base),
        (tfb.Chain([cnf, shift]), x, moved),
    ]:
        matching = VelocityMatching(bijector, start, FlowMatching())
        losses = matching.losses(data, None, True, SEED)
        np.testing.assert_allclose(losses, expected, rtol=1e-4)


def test_other_weights_of_a_chain_stay():
    shift = tf.Variable([0.5, 0.5])
    cnf = CNFBijector(_field(), solver=keras_node.solvers.RK4(0.1))
    flow = NormalizingFlow(tfb.Chain([tfb.Shift(shift), cnf]), _normal())
    flow.compile("adam", objective="flow_matching")
    flow.build((None, 2))
    before = [w.numpy() for w in cnf.trainable_variables]
    with pytest.warns(UserWarning, match="Gradients do not exist"):
        flow.fit(_data(), verbose=0)
    np.testing.assert_array_equal(shift, [0.5, 0.5])
    assert not np.allclose(before[0], cnf.trainable_variables[0])


def test_a_conditional_density_is_fitted():
    x = _data(2048)
    signs = np.random.default_rng(1).choice([-1.0, 1.0], (2048, 1))
    data = {"x": x * signs, "condition": signs}
    flow = _flow()
    flow.compile(keras.optimizers.Adam(0.02), objective="flow_matching")
    flow.fit(data, epochs=10, batch_size=128, verbose=0)
    samples = flow.sample((500,), condition=[-1.0], seed=1)
    np.testing.assert_allclose(np.mean(samples, 0), [-2.0, -2.0], atol=0.3)


def test_optimal_transport_straightens_the_paths():
    pytest.importorskip("scipy")
    flow = _flow()
    losses = {}
    for coupling in ("independent", "optimal_transport"):
        flow.compile("sgd", objective=FlowMatching(coupling))
        losses[coupling] = flow.fit(_data(), verbose=0).history["loss"][0]
    assert losses["optimal_transport"] < 0.9 * losses["independent"]


@pytest.mark.parametrize("base", [Ring(), tfd.Empirical(_data(64), 1)])
def test_a_base_of_samples_alone_is_fitted_and_saved(base, tmp_path):
    flow = _flow(base)
    flow.compile(keras.optimizers.Adam(0.01), objective="flow_matching")
    flow.fit(_data(), epochs=2, verbose=0)
    # The loss of the regression, as there is no density.
    assert _loss(flow, _data()) > 0.0
    assert flow.sample(5).shape == (5, 2)
    with pytest.raises(ValueError, match="a density"):
        flow.log_prob(_data())
    with pytest.raises(ValueError, match="a density"):
        flow.predict(_data(), verbose=0)
    with pytest.raises(ValueError, match="a density"):
        flow.compile("adam")
    path = str(tmp_path / "flow.keras")
    flow.save(path)
    again = keras.models.load_model(path)
    np.testing.assert_allclose(
        again.sample(5, seed=(0, 1)), flow.sample(5, seed=(0, 1)), rtol=1e-5
    )
    again.fit(_data(), verbose=0)
    flow.export(str(tmp_path / "served"))
    served = tf.saved_model.load(str(tmp_path / "served"))
    assert served.sample(3)["x"].shape == (3, 2)
    assert not hasattr(served, "log_prob")


def test_a_saved_flow_goes_on_with_its_objective(tmp_path):
    flow = _flow()
    flow.compile("adam", objective=FlowMatching(sigma=0.1))
    flow.fit(_data(), verbose=0)
    path = str(tmp_path / "flow.keras")
    flow.save(path)
    again = keras.models.load_model(path)
    assert again.objective.sigma == 0.1
    losses = [f.fit(_data(), shuffle=False, verbose=0) for f in (flow, again)]
    first, second = (h.history["loss"][0] for h in losses)
    np.testing.assert_allclose(first, second, rtol=1e-5)
    np.testing.assert_allclose(
        again.log_prob(_data(4)), flow.log_prob(_data(4)), rtol=1e-5
    )


@pytest.mark.parametrize("options", [{"jit_compile": True}, {}])
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_steps_run_compiled_and_in_mixed_precision(options, policy):
    dense = keras.layers.Dense
    net = keras.Sequential(
        [dense(8, "tanh", dtype=policy), dense(2, dtype="float32")]
    )
    flow = NormalizingFlow(CNFBijector(ConcatTime(net)), _normal())
    flow.compile("adam", objective="flow_matching", **options)
    history = flow.fit(_data(), verbose=0).history
    assert np.isfinite(history["loss"][0])


def test_sampling_nfe_is_logged_on_request():
    flow = _flow()
    flow.compile("adam", objective="flow_matching")
    history = flow.fit(
        _data(),
        epochs=3,
        verbose=0,
        callbacks=[keras_node.callbacks.SamplingNFE(8, frequency=2)],
    ).history
    # RK4 with ten steps.
    assert history["sampling_nfe"] == [40.0, 40.0, 40.0]


def test_flows_without_a_path_are_refused():
    two = tfb.Chain([CNFBijector(_field()), CNFBijector(_field(), name="b")])
    for bijector in (two, tfb.Shift([0.0, 0.0])):
        flow = NormalizingFlow(bijector, _normal())
        with pytest.raises(ValueError, match="exactly one `CNFBijector`"):
            flow.compile("adam", objective="flow_matching")


def test_unknown_objectives_are_refused():
    class Mine(keras_node.objectives.Objective):
        pass

    with pytest.raises(TypeError, match="`Likelihood` or a `FlowMatching`"):
        _flow().compile("adam", objective=Mine())


def test_a_base_without_density_is_known_within_another():
    base = tfd.Independent(tfd.Empirical(_data(64)[:, None], 0), 1)
    flow = NormalizingFlow(CNFBijector(_field()), base)
    with pytest.raises(ValueError, match="a density"):
        flow.compile("adam")
    with pytest.raises(ValueError, match="a density"):
        flow.fit_to_density(lambda x: -tf.reduce_sum(x**2, axis=1))


def test_optimal_transport_runs_where_keras_would_compile():
    pytest.importorskip("scipy")
    flow = _flow()
    objective = FlowMatching("optimal_transport")
    with pytest.warns(UserWarning, match="jit_compile"):
        flow.compile("adam", objective=objective, jit_compile=True)
    flow.fit(_data(), verbose=0)
    flow.compile("adam", objective="flow_matching", jit_compile=True)
    assert flow.jit_compile


def test_optimal_transport_of_a_conditional_density_is_refused():
    pytest.importorskip("scipy")
    flow = _flow()
    flow.compile("adam", objective=FlowMatching("optimal_transport"))
    data = {"x": _data(), "condition": np.ones((256, 1), "float32")}
    with pytest.raises(ValueError, match="biases conditional densities"):
        flow.fit(data, verbose=0)


def test_dynamics_of_a_scalar_time_are_refused():
    flow = NormalizingFlow(CNFBijector(lambda t, y: t * y), _normal())
    flow.compile("adam", objective="flow_matching")
    with pytest.raises(ValueError, match="clock for each sample"):
        flow.fit(_data(), verbose=0)


@pytest.mark.parametrize(
    ("base", "match"),
    [
        (
            type("Numbers", (), {"sample": lambda s, n: np.ones((n, 2))})(),
            "NumPy",
        ),
        (object(), "base_distribution"),
    ],
)
def test_objects_that_draw_no_tensors_are_refused(base, match):
    with pytest.raises(TypeError, match=match):
        NormalizingFlow(CNFBijector(_field()), base)


def test_sampling_nfe_needs_a_flow():
    model = keras.Sequential([keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="NormalizingFlow"):
        model.fit(
            np.ones((4, 1)),
            np.ones((4, 1)),
            verbose=0,
            callbacks=[keras_node.callbacks.SamplingNFE()],
        )
