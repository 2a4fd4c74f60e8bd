"""Compares continuous with discrete planar flows on three densities.

Figure 4 of the Neural ODE paper: both carry a normal distribution to a target
that is known up to a factor, by the reverse divergence `KL(q || p)`. The
continuous flow is one field of `M` planar units with gates that time opens,
the discrete one `K` planar layers; at `M = K` their sizes compare. Prints the
divergences, in nats, and draws the densities and the losses.

The targets are after Rezende & Mohamed, 2015, table 1. Two of theirs have
infinite mass, along `x`: here they are times a normal density of `x`. All are
normalized on a grid, so that a loss of 0 is the best there is.

    python examples/cnf_vs_nf.py
    python examples/cnf_vs_nf.py --paper

Reference:
- [Chen et al., 2018, section 4](https://arxiv.org/abs/1806.07366)
- [Rezende & Mohamed, 2015](https://arxiv.org/abs/1505.05770)
"""

import argparse
import time

import keras
import numpy as np
import pictures
import tensorflow as tf
import tensorflow_probability as tfp

import keras_node

tfb, tfd = tfp.bijectors, tfp.distributions

SIZES = (2, 8, 32)
SIDE, GRID = 5.0, 200
# Of 5e-3, 1e-2 and 3e-2, the best for each: at 1e-2 a CNF of the ring may end
# in NaN.
LEARNING_RATES = {"NF": 3e-2, "CNF": 5e-3}
CLIPNORM = 10.0
EPOCHS = 10
BASE = tfd.MultivariateNormalDiag(tf.zeros(2))


# Targets.


def ring(z):
    """A ring, most of it at its left and its right."""
    x, radius = z[:, 0], tf.norm(z, axis=1)
    modes = tf.reduce_logsumexp(
        [-0.5 * ((x - 2) / 0.6) ** 2, -0.5 * ((x + 2) / 0.6) ** 2], axis=0
    )
    return modes - 0.5 * ((radius - 2) / 0.4) ** 2


def wave(z):
    """A band along a sine."""
    x, y = z[:, 0], z[:, 1]
    return -0.5 * ((y - tf.sin(np.pi * x / 2)) / 0.4) ** 2 - (x / 2) ** 2 / 2


def split_wave(z):
    """The same, that splits in two and joins again."""
    x, y = z[:, 0], z[:, 1]
    band = y - tf.sin(np.pi * x / 2)
    away = 3 * tf.exp(-0.5 * ((x - 1) / 0.6) ** 2)
    bands = [-0.5 * (band / 0.35) ** 2, -0.5 * ((band + away) / 0.35) ** 2]
    return tf.reduce_logsumexp(bands, axis=0) - (x / 2) ** 2 / 2


TARGETS = {"ring": ring, "wave": wave, "split wave": split_wave}


def grid():
    """Returns points `(GRID**2, 2)`, and the area of each."""
    axis = np.linspace(-SIDE, SIDE, GRID, dtype="float32")
    points = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    return points, float(axis[1] - axis[0]) ** 2


def normalized(target):
    """Returns the log-density of a target, its mass found on a grid."""
    points, area = grid()
    log_mass = tf.reduce_logsumexp(target(tf.constant(points))) + np.log(area)
    return lambda z: target(z) - log_mass


# Flows.


class PlanarLayer(tfb.Bijector):
    """One layer of a planar flow, `z + u tanh(w . z + b)`.

    `u` is moved along `w` so that `u . w > -1`, which makes it invertible; the
    inverse has no closed form, and the reverse divergence needs none.

    Reference:
    - [Rezende & Mohamed, 2015, eq. 10](https://arxiv.org/abs/1505.05770)
    """

    def __init__(self, seed, name="planar"):
        start = tf.random.stateless_normal([2, 2], [seed, 0], stddev=0.1)
        self._u, self._w = tf.Variable(start[0]), tf.Variable(start[1])
        self._b = tf.Variable(0.0)
        super().__init__(
            forward_min_event_ndims=1, parameters={"seed": seed}, name=name
        )

    def _invertible_u(self):
        product = tf.reduce_sum(self._u * self._w)
        shift = tf.nn.softplus(product) - 1 - product
        return self._u + shift * self._w / tf.reduce_sum(self._w**2)

    def _slope(self, z):
        return tf.tanh(tf.linalg.matvec(z, self._w) + self._b)

    def _forward(self, z):
        return z + self._invertible_u() * self._slope(z)[..., tf.newaxis]

    def _forward_log_det_jacobian(self, z):
        product = tf.reduce_sum(self._invertible_u() * self._w)
        return tf.math.log1p(product * (1 - self._slope(z) ** 2))


def make_flow(kind, size, seed=0):
    """Returns the continuous or the discrete flow of a size."""
    if kind == "NF":
        layers = [
            PlanarLayer(size * seed + i, f"planar_{i}") for i in range(size)
        ]
        return keras_node.NormalizingFlow(tfb.Chain(layers), BASE)
    field = keras_node.PlanarDynamics(size, hypernetwork=True, hidden_units=64)
    return continuous(field, 1e-3)


def continuous(field, tolerance):
    """Returns the continuous flow of a field."""
    solver = keras_node.solvers.Tsit5(rtol=tolerance, atol=tolerance)
    return keras_node.NormalizingFlow(
        keras_node.CNFBijector(field, solver=solver), BASE
    )


# Training.


def fit(kind, size, log_prob, arguments):
    """Returns a fitted flow and its loss after each epoch, in nats."""
    keras.utils.set_random_seed(arguments.seed)
    flow = make_flow(kind, size, arguments.seed)
    steps = arguments.cnf_steps if kind == "CNF" else arguments.nf_steps
    epochs = min(EPOCHS, steps)
    rate = keras.optimizers.schedules.CosineDecay(LEARNING_RATES[kind], steps)
    # One step of a sharp field can carry a flow off to where none leads back.
    optimizer = keras.optimizers.Adam(rate, clipnorm=CLIPNORM)
    if arguments.paper and kind == "NF":
        optimizer = keras.optimizers.RMSprop(1e-4, momentum=0.9)
    flow.compile(
        optimizer, steps_per_execution=steps // epochs, jit_compile=True
    )
    history = flow.fit_to_density(
        log_prob,
        batch_size=arguments.batch_size,
        epochs=epochs,
        steps_per_epoch=steps // epochs,
        verbose=arguments.verbose,
    ).history
    return flow, history["loss"]


def divergence(flow, log_prob, count=20_000):
    """Returns `KL(q || p)` in nats, by new samples, accurately solved."""
    if isinstance(flow.bijector, keras_node.CNFBijector):
        flow = continuous(flow.bijector.dynamics, 1e-6)
    x, log_q = flow.distribution.experimental_sample_and_log_prob(count, seed=1)
    return float(tf.reduce_mean(log_q - log_prob(x)))


def run(target, arguments):
    """Fits all flows to one target.

    Returns:
        Dict from `(kind, size)` to the divergence, the losses and samples.
    """
    log_prob = normalized(TARGETS[target])
    results = {}
    for size in arguments.sizes:
        for kind in ("NF", "CNF"):
            start = time.perf_counter()
            flow, losses = fit(kind, size, log_prob, arguments)
            result = divergence(flow, log_prob)
            results[kind, size] = result, losses, flow.sample(20_000, seed=2)
            seconds = time.perf_counter() - start
            print(
                f"{target}: {kind} of size {size} {result:.3f} nats "
                f"({seconds:.0f} s)",
                flush=True,
            )
    return results


# What is shown.


def print_table(results, sizes):
    print("\nKL(q || p) in nats; M units in the CNF, K layers in the NF")
    sizes_text = "".join(f"{f'M = K = {size}':>16}" for size in sizes)
    print(f"{'Target':<16}{sizes_text}")
    for target, result in results.items():
        for kind in ("NF", "CNF"):
            row = "".join(f"{result[kind, size][0]:>16.3f}" for size in sizes)
            print(f"{f'{target}, {kind}':<16}{row}")
    lower = sum(
        result["CNF", size][0] < result["NF", size][0]
        for result in results.values()
        for size in sizes
    )
    print(f"The CNF's is lower in {lower} of {len(results) * len(sizes)}.")


def draw(results, sizes, path):
    """Draws a row for each target: itself, the flows, and the losses."""
    columns = 2 * len(sizes) + 2
    figure = pictures.new(2 * columns, 2.2 * len(results))
    axes = figure.subplots(len(results), columns, squeeze=False)
    points, _ = grid()
    for row, (target, result) in zip(axes, results.items(), strict=True):
        log_prob = normalized(TARGETS[target])(tf.constant(points))
        density = np.exp(log_prob).reshape(GRID, GRID)
        row[0].imshow(density, origin="lower", extent=(-SIDE, SIDE) * 2)
        row[0].set(title=target, xticks=[], yticks=[])
        flows = [(kind, size) for kind in ("NF", "CNF") for size in sizes]
        for axis, (kind, size) in zip(row[1:-1], flows, strict=True):
            samples = result[kind, size][2].numpy()
            square = [[-SIDE, SIDE]] * 2
            axis.hist2d(*samples.T, bins=100, range=square)
            letter = "K" if kind == "NF" else "M"
            axis.set(title=f"{kind}, {letter} = {size}", xticks=[], yticks=[])
            axis.set_aspect("equal")
        for kind, marker in (("NF", "o--"), ("CNF", "s-")):
            losses = [result[kind, size][0] for size in sizes]
            row[-1].plot(sizes, losses, marker, label=kind)
        row[-1].set(xscale="log", title="loss")
        row[-1].set_xticks(sizes, labels=sizes)
        row[-1].minorticks_off()
        row[-1].legend()
    pictures.save(figure, path)


def parse_arguments(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n", maxsplit=1)[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--sizes", nargs="+", type=int, default=SIZES)
    parser.add_argument(
        "--targets", nargs="+", choices=list(TARGETS), default=list(TARGETS)
    )
    parser.add_argument("--cnf-steps", type=int, default=1000)
    parser.add_argument("--nf-steps", type=int, default=4000)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", default="cnf_vs_nf.png")
    parser.add_argument("--verbose", type=int, default=0)
    parser.add_argument(
        "--paper",
        action="store_true",
        help="10,000 steps of Adam for the CNF, 500,000 of RMSprop for the NF",
    )
    parser.add_argument(
        "--smoke", action="store_true", help="one target, ten steps, to try it"
    )
    arguments = parser.parse_args(argv)
    if arguments.paper:
        arguments.cnf_steps, arguments.nf_steps = 10_000, 500_000
    if arguments.smoke:
        arguments.cnf_steps = arguments.nf_steps = 10
        arguments.sizes, arguments.targets = [2], arguments.targets[:1]
    return arguments


def main(argv=None):
    arguments = parse_arguments(argv)
    results = {target: run(target, arguments) for target in arguments.targets}
    print_table(results, arguments.sizes)
    draw(results, arguments.sizes, arguments.output)


if __name__ == "__main__":
    main()
