"""Configs of tfp's objects: what comes back is what went in."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import keras_node
from keras_node.saving import tfp_objects

tfb, tfd = tfp.bijectors, tfp.distributions


def _through_json(structure):
    text = json.dumps(tfp_objects.serialize(structure))
    return tfp_objects.deserialize(json.loads(text))


@pytest.mark.parametrize(
    "bijector",
    [
        tfb.Chain([tfb.Shift([1.0, 2.0]), tfb.Scale(np.float32(3.0))]),
        tfb.Invert(tfb.Softplus(low=1.0)),
        tfb.Permute([1, 0]),
        tfb.Reshape([2, 1], [2]),
        tfb.ScaleMatvecTriL([[1.0, 0.0], [2.0, 3.0]]),
        tfb.Chain([]),
    ],
    ids=lambda bijector: bijector.name,
)
def test_a_bijector_comes_back(bijector):
    copy = _through_json(bijector)
    assert type(copy) is type(bijector)
    y = bijector.forward(tf.constant([[0.5, 1.5]]))
    np.testing.assert_array_equal(copy.inverse(y), bijector.inverse(y))


@pytest.mark.parametrize(
    "distribution",
    [
        tfd.MultivariateNormalDiag(tf.zeros(2), [1.0, 2.0]),
        tfd.Independent(tfd.Laplace([0.0, 1.0], [1.0, 2.0]), 1),
        tfd.Sample(tfd.Normal(tf.constant(0.0), 1.0), [2]),
        tfd.MixtureSameFamily(
            tfd.Categorical(probs=[0.3, 0.7]),
            tfd.MultivariateNormalDiag(tf.zeros((2, 2)), tf.ones((2, 2))),
        ),
    ],
    ids=lambda distribution: distribution.name,
)
def test_a_distribution_comes_back(distribution):
    copy = _through_json(distribution)
    x = tf.constant([0.5, -0.5])
    np.testing.assert_array_equal(copy.log_prob(x), distribution.log_prob(x))


def test_variables_come_back_as_variables_each_once():
    shared = tf.Variable([1.0, 2.0])
    frozen = tf.Variable([3.0, 4.0], trainable=False)
    positive = tfp.util.TransformedVariable([5.0, 6.0], tfb.Exp())
    copy = _through_json(
        tfb.Chain(
            [
                tfb.Shift(shared),
                tfb.Scale(positive),
                tfb.Shift(frozen),
                tfb.Shift(shared),
            ]
        )
    )
    assert len(copy.trainable_variables) == 2
    assert len(copy.variables) == 3
    first, scale, _, last = copy.bijectors
    assert first.shift is last.shift
    np.testing.assert_allclose(scale.scale, [5.0, 6.0], rtol=1e-6)


@keras.saving.register_keras_serializable(package="tests")
def shift_and_log_scale(x, units, **kwargs):
    return x[..., :1] * tf.ones(units), None


def test_registered_functions_and_flows_in_a_chain_come_back():
    coupling = tfb.RealNVP(
        num_masked=1, shift_and_log_scale_fn=shift_and_log_scale
    )
    flow = keras_node.CNFBijector(keras_node.PlanarDynamics(2))
    copy = _through_json({"chain": tfb.Chain([coupling, flow])})["chain"]
    x = tf.constant([[1.0, 2.0]])
    np.testing.assert_allclose(copy.bijectors[0].forward(x), [[1.0, 3.0]])
    assert copy.bijectors[1].dynamics.units == 2


def test_an_autoregressive_network_comes_back():
    made = tfb.AutoregressiveNetwork(
        params=2,
        event_shape=[3],
        hidden_units=[4, 4],
        input_order="right-to-left",
        activation="tanh",
        name="made",
    )
    copy = _through_json(tfb.MaskedAutoregressiveFlow(made))
    x = tf.constant([[1.0, 2.0, 3.0]])
    shape = copy.parameters["shift_and_log_scale_fn"](x).shape
    assert shape == made(x).shape
    other = copy.parameters["shift_and_log_scale_fn"]
    assert other.name == "made"
    other.set_weights(made.get_weights())
    np.testing.assert_array_equal(other(x), made(x))


class Unknown(tfb.Bijector):
    def __init__(self):
        super().__init__(forward_min_event_ndims=0, parameters={})


@pytest.mark.parametrize(
    "bijector",
    [Unknown(), tfb.Inline(tf.exp, tf.exp, forward_min_event_ndims=0)],
)
def test_what_cannot_be_found_again_is_refused(bijector):
    with pytest.raises(ValueError, match="objects that Keras can find again"):
        tfp_objects.serialize(tfb.Chain([bijector]))


@pytest.mark.parametrize("name", ["Nothing", "tf", "Distribution"])
def test_a_config_makes_nothing_but_objects_of_tfp(name):
    config = {"kind": "bijectors", "name": name, "parameters": {}}
    with pytest.raises(ValueError, match="must name a bijector or a dist"):
        tfp_objects.deserialize(config)
