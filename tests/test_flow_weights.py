"""The weights of a NormalizingFlow: made, trained and saved, all of them."""

import copy
import functools
import pickle

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


def _normal(size=2):
    return tfd.MultivariateNormalDiag(tf.zeros(size))


def _points(count=16):
    return np.random.default_rng(0).normal(size=(count, 2)).astype("float32")


def _network():
    return keras.Sequential(
        [keras.layers.Dense(3, "tanh"), keras.layers.Dense(2)]
    )


def autoregressive():
    made = tfb.AutoregressiveNetwork(
        params=2, hidden_units=[4], activation="tanh"
    )
    return tfb.MaskedAutoregressiveFlow(made)


def inverse_autoregressive():
    return tfb.Chain(
        [tfb.Shift(tf.Variable([0.0, 0.0])), tfb.Invert(autoregressive())]
    )


def _coupling(function):
    return tfb.RealNVP(num_masked=1, shift_and_log_scale_fn=function)


def template():
    return _coupling(tfb.real_nvp_default_template([4]))


def closure():
    network = _network()
    return _coupling(lambda x, units: tf.split(network(x), 2, axis=-1))


def partial():
    def function(network, x, units):
        return tf.split(network(x), 2, axis=-1)

    return _coupling(functools.partial(function, _network()))


@keras.saving.register_keras_serializable(package="tests")
class Coupling:
    """Holds a network and is a function."""

    def get_config(self):
        return {}

    @classmethod
    def from_config(cls, config):
        return cls()

    def __init__(self):
        self.network = _network()

    def __call__(self, x, units):
        return tf.split(self.network(x), 2, axis=-1)

    def method(self, x, units):
        return self(x, units)


def callable_object():
    return _coupling(Coupling())


def method():
    return _coupling(Coupling().method)


GLOBAL = keras.Sequential(
    [keras.layers.Dense(3, "tanh"), keras.layers.Dense(2)]
)


def global_name():
    return _coupling(lambda x, units: tf.split(GLOBAL(x), 2, axis=-1))


def chain_with_a_cnf():
    cnf = keras_node.CNFBijector(
        keras_node.PlanarDynamics(2), solver=keras_node.solvers.Euler()
    )
    return tfb.Chain([cnf, tfb.Permute([1, 0]), closure()])


BIJECTORS = {
    function.__name__: (function, count)
    for function, count in [
        (autoregressive, 4),
        (inverse_autoregressive, 5),
        (template, 4),
        (closure, 4),
        (partial, 4),
        (callable_object, 4),
        (method, 4),
        (global_name, 4),
        (chain_with_a_cnf, 9),
    ]
}
KINDS = pytest.mark.parametrize(
    ("make", "count"), BIJECTORS.values(), ids=BIJECTORS
)
# The default template is written with layers that TensorFlow gave up.
pytestmark = pytest.mark.filterwarnings(
    "ignore:`tf.layers.dense` is deprecated", "ignore:`layer.updates` will be"
)


@KINDS
def test_all_weights_exist_before_the_first_step_and_are_trained(make, count):
    flow = NormalizingFlow(make(), _normal())
    weights = list(flow.trainable_variables)
    assert len(weights) == count
    flow.compile(keras.optimizers.SGD(0.1))
    before = [weight.numpy() for weight in weights]
    flow.fit(_points(), batch_size=8, verbose=0)
    assert len(flow.trainable_variables) == count
    for weight, value in zip(weights, before, strict=True):
        assert np.any(weight.numpy() != value), weight.path


@pytest.mark.parametrize("step", ["train_on_batch", "density", "loop"])
def test_every_way_to_train_reaches_all_weights(step):
    flow = NormalizingFlow(autoregressive(), _normal())
    optimizer = keras.optimizers.SGD(0.1)
    flow.compile(optimizer)
    before = [weight.numpy() for weight in flow.trainable_variables]
    if step == "train_on_batch":
        flow.train_on_batch(_points())
    elif step == "density":
        target = tfd.MultivariateNormalDiag([1.0, 2.0], [1.0, 0.5])
        flow.fit_to_density(target.log_prob, 8, steps_per_epoch=2, verbose=0)
    else:
        with tf.GradientTape() as tape:
            loss = -tf.reduce_mean(flow.log_prob(_points()))
        weights = [weight.value for weight in flow.trainable_variables]
        gradients = tape.gradient(loss, weights)
        optimizer.apply(gradients, flow.trainable_variables)
    assert len(before) == 4
    for weight, value in zip(flow.trainable_variables, before, strict=True):
        assert np.any(weight.numpy() != value), weight.path


@KINDS
def test_weights_are_loaded_into_a_flow_that_was_never_called(
    make, count, tmp_path
):
    flow = NormalizingFlow(make(), _normal())
    for weight in flow.trainable_variables:
        weight.assign_add(0.1 * tf.ones_like(weight))
    expected = flow.log_prob(_points())
    path = str(tmp_path / "flow.weights.h5")
    flow.save_weights(path)
    if make is global_name:  # The same network.
        keras.utils.set_random_seed(1)
        GLOBAL.set_weights([0.0 * w for w in GLOBAL.get_weights()])
    copy = NormalizingFlow(make(), _normal())
    copy.load_weights(path)
    np.testing.assert_allclose(copy.log_prob(_points()), expected, rtol=1e-6)


@pytest.mark.parametrize("make", [inverse_autoregressive, callable_object])
def test_weights_come_back_from_a_keras_file_with_their_optimizer(
    make, tmp_path
):
    flow = NormalizingFlow(make(), _normal())
    flow.compile(keras.optimizers.Adam(0.05))
    flow.fit(_points(), verbose=0)
    path = tmp_path / "flow.keras"
    flow.save(path)
    copy = keras.models.load_model(path)
    for model in (flow, copy):
        model.fit(_points(), verbose=0, shuffle=False)
    np.testing.assert_allclose(
        copy.log_prob(_points()), flow.log_prob(_points()), rtol=1e-6
    )


@pytest.mark.parametrize(
    "copied",
    [
        copy.deepcopy,
        lambda flow: pickle.loads(pickle.dumps(flow)),
        keras.models.clone_model,
    ],
    ids=["deepcopy", "pickle", "clone_model"],
)
def test_a_flow_that_was_never_compiled_is_copied(copied):
    flow = NormalizingFlow(inverse_autoregressive(), _normal())
    other = copied(flow)
    if copied is keras.models.clone_model:  # It makes new weights.
        other.set_weights(flow.get_weights())
    np.testing.assert_allclose(
        other.log_prob(_points()), flow.log_prob(_points()), rtol=1e-6
    )
    other.trainable_variables[0].assign_add([1.0, 1.0])
    assert flow.trainable_variables[0].numpy().max() == 0.0


def test_a_flow_of_which_every_kind_of_weight_is_served(tmp_path):
    flow = NormalizingFlow(chain_with_a_cnf(), _normal())
    flow.export(tmp_path / "flow")
    loaded = tf.saved_model.load(tmp_path / "flow")
    np.testing.assert_allclose(
        loaded.log_prob(tf.constant(_points()))["log_prob"],
        flow.log_prob(_points()),
        rtol=1e-5,
    )


def test_a_frozen_network_stays():
    made = tfb.AutoregressiveNetwork(params=2, hidden_units=[4])
    made.trainable = False
    flow = NormalizingFlow(tfb.MaskedAutoregressiveFlow(made), _normal())
    # The seed of `fit_to_density` is one too.
    assert len(flow.variables) == 5 and not flow.trainable_variables
    network = _network()
    network.trainable = False
    flow = NormalizingFlow(
        _coupling(lambda x, units: tf.split(network(x), 2, axis=-1)), _normal()
    )
    assert len(flow.variables) == 5 and not flow.trainable_variables


def test_a_weight_that_appears_later_is_refused():
    kept = []

    def forward(x):
        if len(kept) < 2:
            kept.append(tf.Variable([1.0, 1.0], name=f"late_{len(kept)}"))
        return x * kept[-1]

    bijector = tfb.Inline(
        inverse_fn=forward,
        inverse_log_det_jacobian_fn=lambda x: tf.zeros_like(x[..., 0]),
        forward_min_event_ndims=1,
    )
    flow = NormalizingFlow(bijector, _normal())
    with pytest.raises(ValueError, match="must exist.*'late_1'"):
        flow.log_prob(_points())


_SECRET = {"scale": tf.Variable([2.0, 2.0], name="secret")}


def test_variables_that_are_read_and_not_found_are_named():
    bijector = tfb.Inline(
        inverse_fn=lambda x: x * _SECRET["scale"],
        inverse_log_det_jacobian_fn=lambda x: tf.zeros_like(x[..., 0]),
        forward_min_event_ndims=1,
    )
    with pytest.warns(UserWarning, match="cannot find.*secret"):
        NormalizingFlow(bijector, _normal())


def test_a_keras_variable_that_tfp_has_read_is_refused():
    with pytest.raises(TypeError, match="a `tf.Variable`.*shift="):
        NormalizingFlow(tfb.Shift(keras.Variable([0.0, 0.0])), _normal())
