"""Trains models on one device and on two; the program of `test_distribute`.

TensorFlow splits a CPU in two only before it does anything else, so that this
needs a process of its own; or, with a `TF_CONFIG`, several, each a machine. It
writes what the tests compare to the file that it is told.
"""

import json
import os
import sys

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

import keras_node
from keras_node import solvers
from keras_node.common import random_numbers
from keras_node.dynamics import probe_noise

STEPS, BATCH_SIZE = 10, 8
GENERATOR = np.random.default_rng(0)


def normal(*shape):
    return GENERATOR.normal(size=shape).astype("float32")


POINTS, TARGETS = normal(STEPS * BATCH_SIZE, 3), normal(STEPS * BATCH_SIZE, 2)
SERIES = {
    "values": normal(STEPS * BATCH_SIZE, 5, 2),
    "times": np.linspace(0.0, 1.0, 5),
    "mask": GENERATOR.uniform(size=(STEPS * BATCH_SIZE, 5)) < 0.9,
}


def field():
    return keras.layers.Dense(3, "tanh")


def optimizer():
    return keras.optimizers.SGD(1e-2, momentum=0.9)


def ode_net(loss="mse"):
    """Returns a model with both adjoints and both kinds of clock."""
    lanes = solvers.Bosh3(per_sample_steps=True)
    # Steps chosen for half a batch give another result, within tolerance.
    tight = solvers.Bosh3(rtol=1e-6, atol=1e-6)
    model = keras.Sequential(
        [
            keras.Input((3,)),
            keras_node.ODELayer(
                field(), solver=lanes, adjoint="checkpoint", name="lanes"
            ),
            keras_node.ODELayer(
                field(), solver=tight, adjoint="backsolve", name="shared"
            ),
            keras.layers.Dense(2),
        ]
    )
    model.compile(optimizer(), loss)
    return model


def flow():
    bijector = keras_node.CNFBijector(
        keras_node.ConcatTime(field()), solver=solvers.Midpoint(step_size=0.25)
    )
    base = tfp.distributions.MultivariateNormalDiag(tf.zeros(3))
    model = keras_node.NormalizingFlow(bijector, base)
    model.compile(optimizer())
    return model


def latent_ode():
    model = keras_node.LatentODE(
        2,
        3,
        encoder=keras.layers.GlobalAveragePooling1D(),
        solver=solvers.Midpoint(step_size=0.25),
    )
    model.compile(optimizer(), num_samples=2)
    return model


MODELS = {
    "ode_net": (ode_net, (POINTS, TARGETS)),
    "flow": (flow, (POINTS,)),
    "latent_ode": (latent_ode, (SERIES,)),
}


def weights_of(model):
    """Returns all that was trained, as one list."""
    weights = [np.ravel(weight) for weight in model.trainable_weights]
    return np.concatenate(weights).tolist()


def fit(name, strategy):
    """Returns a model after ten steps of `fit`, its weights and history."""
    make, data = MODELS[name]
    keras.utils.set_random_seed(0)
    with strategy.scope():
        model = make()
    history = model.fit(*data, batch_size=BATCH_SIZE, shuffle=False, verbose=0)
    return model, {"weights": weights_of(model), **history.history}


def custom_loop(strategy):
    """Returns the weights after ten steps of `strategy.run`."""
    keras.utils.set_random_seed(0)
    with strategy.scope():
        model = ode_net(loss=None)
        model.optimizer.build(model.trainable_variables)

    def step(x, y):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum((model(x, training=True) - y) ** 2)
            loss /= BATCH_SIZE * 2  # The mean over the whole batch.
        gradients = tape.gradient(loss, model.trainable_variables)
        model.optimizer.apply(gradients, model.trainable_variables)

    train = tf.function(lambda x, y: strategy.run(step, (x, y)))
    dataset = tf.data.Dataset.from_tensor_slices((POINTS, TARGETS))
    dataset = dataset.batch(BATCH_SIZE, drop_remainder=True)
    for x, y in strategy.experimental_distribute_dataset(dataset):
        train(x, y)
    return weights_of(model)


def fit_to_density(strategy):
    """Returns the losses of a flow that is fitted without data."""
    with strategy.scope():
        model = flow()
    history = model.fit_to_density(
        lambda x: -tf.reduce_sum(x**2, axis=-1),
        batch_size=BATCH_SIZE,
        epochs=2,
        steps_per_epoch=1,
        verbose=0,
    )
    return history.history["loss"]


def train_steps(name, strategy):
    """Returns the weights after ten calls of a model's own `train_step`."""
    make, data = MODELS[name]
    keras.utils.set_random_seed(0)
    with strategy.scope():
        model = make()
        if name == "flow":
            model.log_prob(POINTS[:1])  # Makes its weights.
        model.optimizer.build(model.trainable_variables)
    data = model.prepare(*data) if name == "latent_ode" else data
    train = tf.function(lambda x: strategy.run(model.train_step, (x,)))
    for step in range(STEPS):

        def share(context, first=step * BATCH_SIZE):
            size = BATCH_SIZE // context.num_replicas_in_sync
            first += size * context.replica_id_in_sync_group
            return tf.nest.map_structure(
                lambda x: tf.constant(x[first : first + size]), data
            )

        train(strategy.experimental_distribute_values_from_function(share))
    return weights_of(model)


def evaluate(model, batch_size):
    return model.evaluate(
        POINTS, TARGETS, batch_size=batch_size, verbose=0, return_dict=True
    )


def draw(strategy, sizes):
    """Returns noise of both kinds, for replicas with shares of these sizes."""
    sizes = tf.constant(sizes)

    def rows():
        index = tf.distribute.get_replica_context().replica_id_in_sync_group
        y = tf.zeros([sizes[index], 1])
        probes = probe_noise.sample_like(y, 1, "gaussian", 1, tf.constant(2))[0]
        return probes, random_numbers.sample(
            lambda size, seed: tf.random.stateless_normal([size, 1], seed),
            sizes[index],
            tf.constant([1, 2]),
        )

    parts = strategy.run(tf.function(rows))
    kinds = zip(*map(strategy.experimental_local_results, parts), strict=True)
    return [
        tf.concat(kind, 0).numpy().ravel().tolist()
        for kind in zip(*kinds, strict=True)
    ]


def compare_devices():
    """Returns what training on one device and on two comes to."""
    (cpu,) = tf.config.list_physical_devices("CPU")
    half = tf.config.LogicalDeviceConfiguration()
    tf.config.set_logical_device_configuration(cpu, [half, half])
    # Which would take longer than ten steps.
    tf.config.optimizer.set_experimental_options(
        {"disable_meta_optimizer": True}
    )
    one = tf.distribute.get_strategy()
    two = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    pairs = {
        name: [fit(name, strategy) for strategy in (one, two)]
        for name in MODELS
    }
    (one_net, _), (two_net, _) = pairs["ode_net"]
    one_net.set_weights(two_net.get_weights())
    return {
        **{name: [fitted for _, fitted in pairs[name]] for name in MODELS},
        "evaluations": [
            evaluate(one_net, BATCH_SIZE // 2),
            evaluate(two_net, BATCH_SIZE),
        ],
        "custom_loop": custom_loop(two),
        "density": fit_to_density(two),
        "draws": [draw(one, [8]), draw(two, [4, 4]), draw(two, [3, 2])],
    }


def main(path):
    if "TF_CONFIG" in os.environ:
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
        results = {name: train_steps(name, strategy) for name in MODELS}
        path += str(strategy.cluster_resolver.task_id)
    else:
        results = compare_devices()
    with open(path, "w", encoding="utf-8") as file:
        json.dump(results, file)


if __name__ == "__main__":
    main(sys.argv[1])
