"""Fits continuous normalizing flows to five densities in the plane.

Section 4 of the Neural ODE paper, by maximum likelihood: a normal
distribution is carried to the data by an ODE, whose trace gives the density.
Prints a table, and draws for each set the data, the learned density, and
samples on their way at five times.

    python examples/cnf_density.py
    python examples/cnf_density.py --datasets two_moons --steps 3000
    python examples/cnf_density.py --trace hutchinson

Reference:
- [Chen et al., 2018, section 4](https://arxiv.org/abs/1806.07366)
- [Grathwohl et al., 2019](https://arxiv.org/abs/1810.01367)
"""

import argparse
import time

import keras
import numpy as np
import pictures
import tensorflow as tf
import tensorflow_probability as tfp
import toy_densities

import keras_node

TEST_POINTS, SHOWN_POINTS = 5_000, 2_000
BATCH_SIZE, EPOCHS = 256, 10
EVALUATION_RTOL = 1e-5
FRAMES = 5
GRID = 120


def make_field(width):
    """Returns a network of state and time."""
    network = keras.Sequential(
        [
            keras.layers.Dense(width, "tanh"),
            keras.layers.Dense(width, "tanh"),
            keras.layers.Dense(width, "tanh"),
            keras.layers.Dense(2),
        ]
    )
    return keras_node.ConcatTime(network)


def make_flow(field, rtol, trace="exact", kinetic_energy=0.0):
    """Returns the flow of a field."""
    penalty = keras_node.regularizers.KineticEnergy(kinetic_energy)
    cnf = keras_node.CNFBijector(
        field,
        solver=keras_node.solvers.Tsit5(rtol=rtol, atol=rtol),
        trace=trace,
        regularizers=[penalty],
    )
    base = tfp.distributions.MultivariateNormalDiag(tf.zeros(2), 2 * tf.ones(2))
    return keras_node.NormalizingFlow(cnf, base)


def train(flow, name, arguments):
    """Fits a flow; returns the mean NFE of the last epoch, both ways."""
    epochs = min(EPOCHS, arguments.steps)
    count = arguments.steps // epochs * arguments.batch_size
    points = toy_densities.sample(name, count, arguments.seed)
    rate = keras.optimizers.schedules.CosineDecay(
        arguments.learning_rate, arguments.steps
    )
    flow.compile(keras.optimizers.Adam(rate))
    history = flow.fit(
        points,
        batch_size=arguments.batch_size,
        epochs=epochs,
        verbose=arguments.verbose,
    ).history
    return history["cnf_nfe"][-1], history["cnf_nfe_backward"][-1]


def frames(flow, count, seed):
    """Returns samples on their way from base to data, `(FRAMES, count, 2)`."""
    cnf = flow.bijector
    z = flow.base_distribution.sample(count, seed=seed)
    times = np.linspace(cnf.times[0], cnf.times[-1], FRAMES)
    return keras_node.odeint(cnf.dynamics, z, times, cnf.solver).states.numpy()


def density_on_grid(flow):
    """Returns the density on a square grid, the first axis upwards."""
    axis = np.linspace(-toy_densities.SIDE, toy_densities.SIDE, GRID)
    x, y = np.meshgrid(axis.astype("float32"), axis.astype("float32"))
    points = np.stack([x.ravel(), y.ravel()], axis=1)
    log_prob = flow.predict(points, batch_size=4096, verbose=0)
    return np.exp(log_prob).reshape(GRID, GRID)


def draw(results, path):
    """Draws data, density and flow of each set, a row each."""
    figure = pictures.new(2 * (FRAMES + 2), 2.1 * len(results))
    axes = figure.subplots(len(results), FRAMES + 2, squeeze=False)
    side = toy_densities.SIDE
    for row, (name, result) in zip(axes, results.items(), strict=True):
        panels = {name.replace("_", " "): result["data"], "density": None}
        times = np.linspace(0, 1, FRAMES)
        panels |= {
            f"t = {t:g}": points
            for t, points in zip(times, result["frames"], strict=True)
        }
        for axis, (title, points) in zip(row, panels.items(), strict=True):
            if points is None:
                extent = (-side, side, -side, side)
                axis.imshow(result["density"], origin="lower", extent=extent)
            else:
                axis.scatter(*points.T, s=0.5, c="k", alpha=0.5, linewidths=0)
            axis.set(xlim=(-side, side), ylim=(-side, side), title=title)
            axis.set(xticks=[], yticks=[], aspect="equal")
    pictures.save(figure, path)


def print_table(results):
    print("\nDataset          Test NLL (nats)  NFE forward  NFE backward  Time")
    for name, result in results.items():
        forward, backward = result["nfe"]
        print(
            f"{name:<17}{result['nll']:>15.3f}{forward:>13.1f}"
            f"{backward:>14.1f}{result['seconds']:>5.0f} s"
        )


def parse_arguments(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n", maxsplit=1)[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    names = list(toy_densities.DENSITIES)
    parser.add_argument("--datasets", nargs="+", choices=names, default=names)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--batch-size", type=int, default=BATCH_SIZE)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=1e-2)
    parser.add_argument("--rtol", type=float, default=1e-3, help="in training")
    parser.add_argument(
        "--trace", choices=["exact", "hutchinson", "hutch++"], default="exact"
    )
    parser.add_argument(
        "--kinetic-energy", type=float, default=0.0, help="weight of a penalty"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", default="cnf_density.png")
    parser.add_argument("--verbose", type=int, default=2)
    parser.add_argument(
        "--smoke", action="store_true", help="one set, ten steps, to try it"
    )
    arguments = parser.parse_args(argv)
    if arguments.smoke:
        arguments.steps, arguments.batch_size = 10, 64
        arguments.datasets = arguments.datasets[:1]
    return arguments


def run(name, arguments):
    """Returns all that is shown of one set."""
    keras.utils.set_random_seed(arguments.seed)
    print(f"\n{name}")
    start = time.perf_counter()
    field = make_field(arguments.width)
    flow = make_flow(
        field, arguments.rtol, arguments.trace, arguments.kinetic_energy
    )
    nfe = train(flow, name, arguments)
    seconds = time.perf_counter() - start
    # The dial: trained fast, evaluated accurately.
    flow = make_flow(field, EVALUATION_RTOL)
    test = toy_densities.sample(name, TEST_POINTS, arguments.seed + 1)
    log_prob = flow.predict(test, batch_size=TEST_POINTS, verbose=0)
    return {
        "nfe": nfe,
        "nll": -log_prob.mean(),
        "seconds": seconds,
        "data": test[:SHOWN_POINTS],
        "density": density_on_grid(flow),
        "frames": frames(flow, SHOWN_POINTS, arguments.seed),
    }


def main(argv=None):
    arguments = parse_arguments(argv)
    results = {name: run(name, arguments) for name in arguments.datasets}
    print_table(results)
    draw(results, arguments.output)


if __name__ == "__main__":
    main()
