"""NormalizingFlow: fit, densities, conditions, samples, saving, errors."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import keras_node
from keras_node import NormalizingFlow

tfb, tfd = tfp.bijectors, tfp.distributions


@pytest.fixture(autouse=True)
def seed():
    keras.utils.set_random_seed(0)


def _cnf(dynamics=None, **kwargs):
    # Fixed steps trace in little time.
    kwargs.setdefault("solver", keras_node.solvers.RK4(step_size=0.1))
    return keras_node.CNFBijector(
        dynamics or keras_node.PlanarDynamics(2), **kwargs
    )


def _normal():
    return tfd.MultivariateNormalDiag(tf.zeros(2))


def _affine():
    """A flow that can be the right answer, with variables of TensorFlow's."""
    scale = tfp.util.TransformedVariable([1.0, 1.0], tfb.Exp())
    return tfb.Chain([tfb.Shift(tf.Variable([0.0, 0.0])), tfb.Scale(scale)])


def _data(count=256):
    noise = np.random.default_rng(0).normal(size=(count, 2))
    return (noise * [0.5, 2.0] + [3.0, -1.0]).astype("float32")


def test_fit_finds_the_density_of_greatest_likelihood():
    x = _data()
    flow = NormalizingFlow(_affine(), _normal())
    flow.compile(keras.optimizers.Adam(0.1))
    history = flow.fit(x, epochs=40, batch_size=64, verbose=0).history
    best = tfd.MultivariateNormalDiag(x.mean(axis=0), x.std(axis=0))
    expected = -tf.reduce_mean(best.log_prob(x))
    assert history["loss"][0] > expected + 1
    loss = flow.evaluate(x, verbose=0)
    assert expected - 1e-5 < loss < expected + 0.02
    log_prob = flow.predict(x, verbose=0)
    assert log_prob.shape == (256,)
    np.testing.assert_allclose(-log_prob.mean(), loss, rtol=1e-5)
    np.testing.assert_allclose(log_prob, flow.log_prob(x), rtol=1e-4)
    samples = flow.sample(4000, seed=1)
    np.testing.assert_allclose(
        np.mean(samples, axis=0), x.mean(axis=0), atol=0.2
    )


def test_all_variables_of_keras_and_tensorflow_are_trained():
    scale = tf.Variable([1.0, 1.0])
    base = tfd.MultivariateNormalDiag(tf.zeros(2), scale)
    frozen = tf.Variable([0.5, 0.5], trainable=False)
    bijector = tfb.Chain([_cnf(name="a"), tfb.Shift(frozen), _cnf(name="b")])
    flow = NormalizingFlow(bijector, base)
    flow.compile(keras.optimizers.SGD(0.01))
    flow.fit(_data(32), verbose=0)
    assert len(flow.trainable_variables) == 2 * 5 + 1
    assert np.all(scale != 1.0) and np.all(frozen == 0.5)
    before = [v.numpy() for v in flow.trainable_variables]
    flow.fit(_data(32), verbose=0)
    for variable, value in zip(flow.trainable_variables, before, strict=True):
        assert np.any(variable.numpy() != value)


def test_reverse_divergence_reaches_zero_on_a_density_it_can_be():
    target = tfd.MultivariateNormalDiag([3.0, -1.0], [0.5, 2.0])
    flow = NormalizingFlow(_affine(), _normal())
    flow.compile(keras.optimizers.Adam(0.1))
    # Off by a constant, which the loss then shows.
    history = flow.fit_to_density(
        lambda x: target.log_prob(x) + 5.0,
        batch_size=64,
        epochs=4,
        steps_per_epoch=50,
        verbose=0,
    ).history
    np.testing.assert_allclose(history["loss"][-1], -5.0, atol=0.02)
    assert history["loss"][0] > -4.5
    # Afterwards it is fitted to data again.
    loss = flow.fit(target.sample(64, seed=1), verbose=0).history["loss"][0]
    assert loss > 1.0


def test_conditional_data_go_as_a_dict_and_reach_a_flow_in_a_chain():
    condition = np.linspace(-1, 1, 128, dtype="float32")[:, None]
    x = 0.1 * np.random.default_rng(0).normal(size=(128, 2)) + condition
    inner = _cnf(keras_node.ConcatTime(keras.layers.Dense(2)))
    bijector = tfb.Chain([tfb.Scale(2.0), tfb.Invert(inner)])
    flow = NormalizingFlow(bijector, _normal())
    flow.compile(keras.optimizers.Adam(0.05))
    data = {"x": x.astype("float32"), "condition": condition}
    flow.fit(data, batch_size=16, epochs=10, verbose=0)
    dataset = tf.data.Dataset.from_tensor_slices(data).batch(64)
    loss = flow.evaluate(dataset, verbose=0, return_dict=True)["loss"]
    # The best without a condition: uniform in one direction, 0.1 in the other.
    assert loss < np.log(2.0) + np.log(0.1) + 0.5 + 0.5 * np.log(2 * np.pi)
    log_prob = flow.log_prob(data["x"], condition=condition)
    np.testing.assert_allclose(-np.mean(log_prob), loss, atol=1e-3)
    samples = flow.sample(128, condition=condition)
    np.testing.assert_allclose(samples, np.tile(condition, 2), atol=0.8)


def test_penalties_count_in_training_and_not_in_evaluation():
    x = _data(64)
    penalty = keras_node.regularizers.KineticEnergy(10.0)
    cnf = _cnf(regularizers=[penalty])
    flow = NormalizingFlow(cnf, _normal())
    flow.compile(keras.optimizers.SGD(0.0))
    trained = flow.fit(x, batch_size=64, verbose=0).history
    likelihood = -np.mean(flow.log_prob(x))
    np.testing.assert_allclose(
        trained["loss"][0],
        likelihood + 10 * trained["cnf_kinetic_energy"][0],
        rtol=1e-4,
    )
    evaluated = flow.evaluate(x, batch_size=64, verbose=0, return_dict=True)
    np.testing.assert_allclose(evaluated["loss"], likelihood, rtol=1e-5)


def test_trace_is_estimated_in_training_and_exact_in_evaluation():
    x = _data(16)
    field = keras.Sequential([keras.layers.Dense(2, "tanh")])
    flow = NormalizingFlow(
        _cnf(field, trace="hutchinson", evaluation_trace="exact"), _normal()
    )
    exact = NormalizingFlow(_cnf(field), _normal())
    np.testing.assert_allclose(flow.log_prob(x), exact.log_prob(x), rtol=1e-5)
    estimate = flow(x, training=True)
    assert np.abs(estimate - exact.log_prob(x)).max() > 1e-3


def test_a_trained_flow_comes_back_from_its_file(tmp_path):
    x = _data(32)
    shift = tf.Variable([0.1, 0.2])
    bijector = tfb.Chain([tfb.Shift(shift), _cnf(), _affine()])
    base = tfd.Independent(tfd.Normal([0.0, 0.0], shift**2 + 1.0), 1)
    flow = NormalizingFlow(bijector, base)
    flow.compile(keras.optimizers.Adam(0.05))
    flow.fit(x, epochs=2, verbose=0)
    path = str(tmp_path / "flow.keras")
    flow.save(path)
    copy = keras.models.load_model(path)
    np.testing.assert_allclose(copy.log_prob(x), flow.log_prob(x), rtol=1e-6)
    # The optimizer's state came along: both train on alike.
    histories = [model.fit(x, verbose=0).history for model in (flow, copy)]
    np.testing.assert_allclose(
        histories[0]["loss"], histories[1]["loss"], rtol=1e-6
    )
    np.testing.assert_allclose(copy.log_prob(x), flow.log_prob(x), rtol=1e-5)


def test_flow_is_a_layer_of_its_input():
    flow = NormalizingFlow(_cnf(), _normal())
    inputs = keras.Input((2,))
    model = keras.Model(inputs, flow(inputs))
    assert model.output_shape == (None,)
    np.testing.assert_allclose(model(_data(4)), flow(_data(4)), rtol=1e-6)


def test_what_cannot_be_saved_is_named():
    bijector = tfb.Chain(
        [tfb.Inline(tf.exp, tf.math.log, forward_min_event_ndims=0)]
    )
    flow = NormalizingFlow(bijector, _normal())
    with pytest.raises(ValueError, match=r"bijectors\[0\].forward_fn"):
        flow.get_config()


def test_wrong_arguments_are_refused():
    with pytest.raises(TypeError, match="`bijector` must be a tfp bijector"):
        NormalizingFlow(keras.layers.Dense(2), _normal())
    with pytest.raises(ValueError, match="`tfd.Independent`"):
        NormalizingFlow(_cnf(), tfd.Normal([0.0, 0.0], 1.0))
    with pytest.raises(ValueError, match="a name of its own"):
        NormalizingFlow(tfb.Chain([_cnf(), _cnf()]), _normal())
    flow = NormalizingFlow(_cnf(), _normal())
    flow.compile("adam")
    with pytest.raises(ValueError, match="Keras drops `sample_weight`"):
        flow.fit(_data(4), sample_weight=np.ones(4))
    with pytest.raises(ValueError, match="A `condition` needs a `CNFBij"):
        flow.log_prob(_data(4), condition=_data(4))
    with pytest.raises(ValueError, match="Received: keys="):
        flow({"x": _data(4), "c": _data(4)})
    with pytest.raises(TypeError, match="`target_log_prob` must be"):
        flow.fit_to_density(3.0)
    with pytest.raises(ValueError, match="one number for each sample"):
        flow.fit_to_density(lambda x: x, verbose=0)


def test_targets_and_losses_are_refused():
    flow = NormalizingFlow(_affine(), _normal())
    flow.compile("adam")
    with pytest.raises(ValueError, match="takes no targets"):
        flow.fit(_data(4), _data(4), verbose=0)
    flow.compile("adam", loss="mse")
    with pytest.raises(ValueError, match="its own loss"):
        flow.fit(_data(4), verbose=0)


def test_reverse_divergence_does_not_leak_into_evaluation():
    x = _data(32)
    flow = NormalizingFlow(_affine(), _normal())
    flow.compile(keras.optimizers.SGD(0.0))
    history = flow.fit_to_density(
        lambda x: 0.0 * x[:, 0],
        batch_size=8,
        steps_per_epoch=2,
        validation_data=(x,),
        verbose=0,
    ).history
    expected = -np.mean(flow.log_prob(x))
    np.testing.assert_allclose(history["val_loss"], [expected], rtol=1e-5)
    np.testing.assert_allclose(flow.evaluate(x, verbose=0), expected, rtol=1e-5)


def test_log_prob_of_a_sample_drawn_before_a_training_step_is_the_new_one():
    shift = tf.Variable([0.0, 0.0])
    flow = NormalizingFlow(tfb.Shift(shift), _normal())
    x = flow.sample(4)
    flow.log_prob(x)
    shift.assign([1.0, 1.0])
    expected = _normal().log_prob(x - 1.0)
    np.testing.assert_allclose(flow.log_prob(x), expected, rtol=1e-5)


def test_another_solver_is_used_at_once():
    flow = NormalizingFlow(_cnf(), _normal())
    flow.compile("sgd")
    x = _data(16)
    before = flow.predict(x, verbose=0), flow.evaluate(x, verbose=0)
    flow.bijector.solver = keras_node.solvers.Euler(step_size=0.5)
    after = flow.predict(x, verbose=0), flow.evaluate(x, verbose=0)
    assert np.any(after[0] != before[0]) and after[1] != before[1]
    np.testing.assert_allclose(after[0], flow.log_prob(x), rtol=1e-5)


def test_a_callback_may_replace_the_solver_during_fit():
    flow = NormalizingFlow(_cnf(), _normal())
    flow.compile("sgd")
    euler = keras_node.solvers.Euler(step_size=0.5)
    replace = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda *_: setattr(flow.bijector, "solver", euler)
    )
    x = _data(16)
    flow.fit(x, epochs=2, validation_data=x, callbacks=[replace], verbose=0)
    np.testing.assert_allclose(
        flow.predict_on_batch(x), flow.log_prob(x), rtol=1e-5
    )


def test_data_of_numpys_dtype_are_cast():
    flow = NormalizingFlow(_cnf(), _normal())
    x = _data(4)
    expected = flow.log_prob(x)
    np.testing.assert_array_equal(flow.log_prob(x.astype("float64")), expected)


@pytest.mark.parametrize(
    "dynamics",
    [
        lambda: keras_node.PlanarDynamics(2),
        lambda: keras_node.ConcatTime(keras.layers.Dense(2)),
        lambda: keras.Sequential([keras.layers.Dense(2)]),
    ],
    ids=["planar", "concat_time", "sequential"],
)
def test_weights_are_loaded_into_a_cnf_that_was_never_called(
    dynamics, tmp_path
):
    flow = NormalizingFlow(_cnf(dynamics()), _normal())
    expected = flow.log_prob(_data(4))
    path = str(tmp_path / "flow.weights.h5")
    flow.save_weights(path)
    copy = NormalizingFlow(_cnf(dynamics()), _normal())
    copy.load_weights(path)
    np.testing.assert_array_equal(copy.log_prob(_data(4)), expected)


def test_weights_of_a_conditional_flow_are_loaded_once_it_is_built(tmp_path):
    class Driven(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(2)

        def call(self, t, y, condition):
            return y + self.dense(condition)

    data = {"x": _data(4), "condition": _data(4)[:, :1]}
    flow = NormalizingFlow(_cnf(Driven()), _normal())
    flow.build({"x": (None, 2), "condition": (None, 1)})
    assert len(flow.trainable_variables) == 2
    path = str(tmp_path / "flow.weights.h5")
    flow.save_weights(path)
    copy = NormalizingFlow(_cnf(Driven()), _normal())
    with pytest.raises(ValueError, match="not yet been built"):
        copy.load_weights(path)
    copy.build({"x": (None, 2), "condition": (None, 1)})
    copy.load_weights(path)
    np.testing.assert_array_equal(copy(data), flow(data))


def test_condition_with_more_axes_than_the_batch_is_refused():
    bijector = keras_node.CNFBijector(lambda t, y, condition: condition + 0 * y)
    with pytest.raises(ValueError, match="axes of the batch, or fewer"):
        bijector.forward(tf.zeros((3, 2)), condition=tf.zeros((2, 1, 2)))


def test_sample_takes_shapes_of_any_kind_and_seeds_of_tfp():
    flow = NormalizingFlow(tfb.Scale([1.0, 2.0]), _normal())
    for shape in ((2, 3), tf.TensorShape([2, 3]), np.array([2, 3])):
        assert flow.sample(shape).shape == (2, 3, 2)
    for seed in (1, np.int64(1), (1, 2)):
        flow.sample(3, seed=seed)
    with pytest.raises(ValueError, match="`sample_shape` must"):
        flow.sample((tf.constant(2), "a"))


def test_fit_begins_with_a_model_that_is_built():
    class Look(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            self.was_built = self.model.built

    x, look = np.zeros((4, 2), "float32"), Look()
    for data in (x, tf.data.Dataset.from_tensors(x)):
        flow = NormalizingFlow(_cnf(), _normal())
        flow.compile("sgd")
        flow.fit(data, verbose=0, shuffle=False, callbacks=[look])
        assert look.was_built
