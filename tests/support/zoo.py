"""Small models of each kind, with data to train them."""

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

import keras_node


@keras.saving.register_keras_serializable(package="tests")
def swinging(t, y):
    """Returns the vector field of a driven pendulum, as a function."""
    return keras.ops.sin(y) * (1.0 + t)


def mlp(units=2):
    """Returns a vector field as a `Sequential`."""
    return keras.Sequential(
        [keras.layers.Dense(4, "tanh"), keras.layers.Dense(units)]
    )


def functional():
    """Returns a vector field of time as a Functional model."""
    t, y = keras.Input(()), keras.Input((2,))
    time = keras.layers.Reshape((1,))(t)
    net = keras.layers.Dense(2, "tanh")
    return keras.Model([t, y], net(keras.layers.Concatenate()([y, time])))


def classifier(dynamics=None, **kwargs):
    """Returns a regression through an `ODELayer`, built."""
    layer = keras_node.ODELayer(dynamics or mlp(), name="ode", **kwargs)
    return keras.Sequential(
        [keras.Input((2,)), layer, keras.layers.Dense(1, name="head")]
    )


def flow(**kwargs):
    """Returns a conditional flow of two parts, one of them tfp's."""
    kwargs.setdefault("dynamics", keras_node.PlanarDynamics(3))
    dtype = kwargs.pop("dtype", "float32")
    scale = tfp.bijectors.Scale(tf.Variable(tf.ones([2], dtype)))
    return keras_node.NormalizingFlow(
        tfp.bijectors.Chain([scale, keras_node.CNFBijector(**kwargs)]),
        tfp.distributions.MultivariateNormalDiag(tf.zeros([2], dtype)),
    )


def latent(**kwargs):
    """Returns a `LatentODE` of few weights."""
    return keras_node.LatentODE(
        2,
        2,
        encoder=keras.layers.GRU(3, go_backwards=True, use_cudnn=False),
        dynamics=mlp(),
        decoder=keras.layers.Dense(2),
        **kwargs,
    )


def points(count=16, seed=0):
    """Returns `(count, 2)` standard normal points."""
    generator = np.random.default_rng(seed)
    return generator.normal(size=(count, 2)).astype("float32")


def series(count=16, seed=0):
    """Returns data of a `LatentODE`, each series with times of its own."""
    generator = np.random.default_rng(seed)
    return {
        "values": generator.normal(size=(count, 5, 2)).astype("float32"),
        "times": np.sort(
            generator.uniform(size=(count, 5)).astype("float32"), axis=1
        ),
        "mask": generator.uniform(size=(count, 5)) < 0.8,
    }


def targets(x):
    """Returns what the classifier learns, `(count, 1)`."""
    return np.sum(x**2, axis=1, keepdims=True)


MODELS = {
    "ODELayer": classifier,
    "NormalizingFlow": flow,
    "LatentODE": latent,
}


def data(name, count=16, seed=0):
    """Returns the arguments of `fit` of a model, `(x,)` or `(x, y)`."""
    if name == "LatentODE":
        return (series(count, seed),)
    x = points(count, seed)
    return (x, targets(x)) if name == "ODELayer" else (x,)


def compiled(name, model=None, **kwargs):
    """Returns a compiled model of a kind."""
    model = model or MODELS[name]()
    loss = {"loss": "mse"} if name == "ODELayer" else {}
    model.compile(optimizer=keras.optimizers.Adam(1e-2), **loss, **kwargs)
    return model
