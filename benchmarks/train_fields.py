"""Trains the ten networks of `controller.py`, and writes their weights.

An MLP on a spiral; the block of the MNIST example after 0, 1 and 3 epochs;
flows of two moons and eight Gaussians, before and after training; the dynamics
of a latent ODE; a Hamiltonian network of the pendulum. A few minutes.

    python benchmarks/train_fields.py fields.npz
"""

import argparse
import os
import sys

import keras
import numpy as np
import tensorflow as tf

import keras_node

EXAMPLES = os.path.join(os.path.dirname(__file__), "..", "examples")
sys.path.insert(0, EXAMPLES)

import cnf_density  # noqa: E402
import latent_spirals  # noqa: E402
import mnist_odenet  # noqa: E402
import toy_densities  # noqa: E402

SEED = 0


def entry(network, y0, end):
    """Returns what `fields.load` reads of one problem."""
    weights = {f"w{i}": w.numpy() for i, w in enumerate(network.weights)}
    return {**weights, "y0": np.asarray(y0), "end": np.asarray(end)}


def minimize(loss, weights, steps):
    """Trains `weights` by Adam on a function without arguments."""
    optimizer = keras.optimizers.Adam(1e-2)
    optimizer.build(weights)

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            value = loss()
        optimizer.apply_gradients(
            zip(tape.gradient(value, weights), weights, strict=True)
        )
        return value

    for _ in range(steps):
        value = step()
    return float(value)


def tanh_network(width, units):
    """Returns two hidden layers."""
    return keras.Sequential(
        [
            keras.layers.Dense(width, "tanh"),
            keras.layers.Dense(width, "tanh"),
            keras.layers.Dense(units),
        ]
    )


def spirals():
    """`y' = net(y**3)`, fitted to a spiral at 20 times (torchdiffeq's demo)."""
    network = tanh_network(32, 2)
    matrix = tf.constant([[-0.1, 2.0], [-2.0, -0.1]])
    y0 = tf.random.stateless_uniform((16, 2), (SEED, 0), 0.5, 2.0)
    times = tf.linspace(0.0, 3.0, 20)
    truth = keras_node.odeint(
        lambda t, y: (y**3) @ matrix, y0, times, solver="tsit5"
    ).states
    field = lambda t, y: network(y**3)  # noqa: E731
    field(0.0, y0)

    def loss():
        states = keras_node.odeint(field, y0, times, solver="tsit5").states
        return tf.reduce_mean((states - truth) ** 2)

    print("spirals", minimize(loss, network.trainable_variables, 400))
    return {"spirals": entry(network, y0, 3.0)}


def mnist():
    """The block after 0, 1 and 3 epochs, on features of eight digits."""
    arguments = mnist_odenet.parse_arguments(["--verbose", "0"])
    train, _ = mnist_odenet.load_data(arguments)
    model = mnist_odenet.build_model(arguments)
    block = model.get_layer("ode")
    features = keras.Model(model.inputs, block.input)
    mnist_odenet.compile_model(model, arguments, 3 * len(train[1]) // 128)
    entries = {}
    for epoch in range(4):
        if epoch != 2:
            y0 = features(train[0][:8])
            entries[f"mnist_{epoch}"] = entry(block.dynamics, y0, 1.0)
        if epoch < 3:
            model.fit(*train, batch_size=128, epochs=1, verbose=2)
    return entries


def flows():
    """Flows of two densities, at first and after 800 steps."""
    entries = {}
    for name in ("two_moons", "eight_gaussians"):
        field = cnf_density.make_field(64)
        flow = cnf_density.make_flow(field, 1e-3)
        points = toy_densities.sample(name, 64, SEED)
        flow.log_prob(points)
        y0 = np.concatenate([points, np.zeros((64, 1))], axis=1)
        entries[f"flow_{name}_0"] = entry(field, y0, 1.0)
        arguments = cnf_density.parse_arguments(["--verbose", "0"])
        cnf_density.train(flow, name, arguments)
        entries[f"flow_{name}_1"] = entry(field, y0, 1.0)
    return entries


def latent():
    """The dynamics of the spirals' latent ODE, from encoded states."""
    arguments = latent_spirals.parse_arguments(["--epochs", "30"])
    curves = latent_spirals.make_spirals(arguments.count, SEED)
    data = latent_spirals.observe(curves, 50, arguments.noise, SEED)
    model = latent_spirals.train_latent_ode(data, arguments)
    y0 = model.encode(**data).mean()[:64]
    end = float(latent_spirals.TIMES[latent_spirals.NUM_TIMES - 1])
    return {"latent": entry(model.dynamics, y0, end)}


def pendulum():
    """`H(q, p)`, whose gradient is fitted to the pendulum's derivatives."""
    network = tanh_network(64, 1)
    y = tf.random.stateless_uniform((512, 2), (SEED, 1), -2.0, 2.0)
    q, p = tf.split(y, 2, axis=1)
    network(y)

    def loss():
        with tf.GradientTape() as tape:
            tape.watch(y)
            energy = network(y)
        gradient = tape.gradient(energy, y)
        truth = tf.concat([tf.sin(q), p], axis=1)
        return tf.reduce_mean((gradient - truth) ** 2)

    # The bias of the energy has no gradient.
    print("hamiltonian", minimize(loss, network.trainable_variables[:-1], 2000))
    return {"hamiltonian": entry(network, y[:32], 10.0)}


def main():
    """Trains all, and writes one file."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n", maxsplit=1)[0]
    )
    parser.add_argument("path", help="of the file to write, .npz")
    path = parser.parse_args().path
    keras.utils.set_random_seed(SEED)
    entries = {}
    for make in (spirals, latent, pendulum, flows, mnist):
        entries |= make()
    arrays = {
        f"{name}/{key}": value
        for name, arrays in entries.items()
        for key, value in arrays.items()
    }
    np.savez(path, **arrays)
    print(f"Wrote {path}.")


if __name__ == "__main__":
    main()
