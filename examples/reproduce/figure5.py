"""Figure 5: two circles and two moons by maximum likelihood.

A continuous planar flow of 64 units beside a discrete one of 64 layers, as in
the paper; and a network of two hidden layers, which the paper does not have.
Reports nats of points held out. The discrete flow is fitted in the direction
from data to base, in which its density needs no inverse.
"""

import time

import cnf_density
import cnf_vs_nf
import keras
import numpy as np
import pictures
import tensorflow as tf
import tensorflow_probability as tfp
import toy_densities

import keras_node
from examples.reproduce.logs import Log

COLUMNS = "data kind seed steps parameters nats nfe seconds".split()
DATA = ("two_circles", "two_moons")
SIZE, BATCH_SIZE, HELD_OUT, SHOWN = 64, 256, 10_000, 1_500
STEPS = {"planar CNF": 2_000, "planar NF": 10_000, "CNF": 2_000}
RATES = {"planar CNF": 1e-2, "planar NF": 5e-3, "CNF": 1e-2}
SEEDS = (0, 1, 2)


def make_flow(kind, seed, rtol=1e-3):
    """Returns a flow whose base is a normal distribution of scale 2."""
    base = tfp.distributions.MultivariateNormalDiag(tf.zeros(2), 2 * tf.ones(2))
    if kind == "planar NF":
        layers = [
            cnf_vs_nf.PlanarLayer(SIZE * seed + i, f"planar_{i}")
            for i in range(SIZE)
        ]
        from_data = tfp.bijectors.Chain(layers)
        return keras_node.NormalizingFlow(tfp.bijectors.Invert(from_data), base)
    field = keras_node.PlanarDynamics(SIZE, hypernetwork=True, hidden_units=64)
    if kind == "CNF":
        dense = keras.layers.Dense
        net = keras.Sequential([dense(64, "tanh"), dense(64, "tanh"), dense(2)])
        field = keras_node.ConcatTime(net)
    return cnf_density.make_flow(field, rtol)


def train(case, steps):
    """Fits a flow; returns it, the NFE at the end, and the seconds."""
    keras.utils.set_random_seed(case["seed"])
    flow = make_flow(case["kind"], case["seed"])
    epochs = min(10, steps)
    steps_an_epoch = steps // epochs
    count = steps_an_epoch * BATCH_SIZE
    rate = keras.optimizers.schedules.CosineDecay(RATES[case["kind"]], steps)
    optimizer = keras.optimizers.Adam(rate, clipnorm=10.0)
    # XLA takes ten minutes to compile 64 layers in a row.
    flow.compile(optimizer, jit_compile=case["kind"] != "planar NF")
    start, history = time.perf_counter(), {}
    for epoch in range(epochs):
        points = toy_densities.sample(
            case["data"], count, (case["seed"], epoch)
        )
        history = flow.fit(points, batch_size=BATCH_SIZE, verbose=0).history
    return flow, history.get("cnf_nfe", [""])[-1], time.perf_counter() - start


def accurate(flow, kind):
    """Returns the flow to evaluate: trained fast, evaluated accurately."""
    if kind == "planar NF":
        return flow
    return cnf_density.make_flow(flow.bijector.dynamics, 1e-6)


def nats_of(flow, data):
    """Returns the mean negative log-density of points held out."""
    points = toy_densities.sample(data, HELD_OUT, 12345)
    log_prob = flow.predict(points, batch_size=HELD_OUT, verbose=0)
    return float(-np.mean(log_prob))


def run(case, steps, options):
    """Fits one flow; returns what the log says of it."""
    flow, nfe, seconds = train(case, steps)
    num_parameters = sum(int(np.prod(v.shape)) for v in flow.trainable_weights)
    flow = accurate(flow, case["kind"])
    if case["seed"] == SEEDS[0]:
        save_pictures(flow, case, options)
    return {
        "parameters": num_parameters,
        "nats": nats_of(flow, case["data"]),
        "nfe": nfe,
        "seconds": seconds,
    }


def save_pictures(flow, case, options):
    """Keeps the density on a grid, and samples on their way."""
    options.runs.mkdir(parents=True, exist_ok=True)
    density = cnf_density.density_on_grid(flow)
    if case["kind"] == "planar NF":
        frames = frames_of_layers(flow, case["data"])
    else:
        frames = cnf_density.frames(flow, SHOWN, seed=0)
    np.savez(picture_path(case, options), density=density, frames=frames)


def frames_of_layers(flow, data):
    """Returns data on its way through the layers to the base, reversed."""
    points = toy_densities.sample(data, SHOWN, 1)
    frames = [points]
    layers = flow.bijector.bijector.bijectors[::-1]
    for i, layer in enumerate(layers, 1):
        points = layer.forward(points)
        if i % (SIZE // (cnf_density.FRAMES - 1)) == 0:
            frames.append(points.numpy())
    return np.stack(frames[::-1])


def picture_path(case, options):
    """Returns where the arrays of a picture are kept."""
    name = "figure5-{data}-{kind}".format(**case).replace(" ", "-")
    return options.runs / f"{name}.npz"


def cases(options):
    """Returns the flows to fit, as dicts."""
    return [
        {"data": data, "kind": kind, "seed": seed}
        for seed in options.seeds or SEEDS[: 1 if options.smoke else None]
        for data in DATA[: 1 if options.smoke else None]
        for kind in STEPS
    ]


def draw(options):
    """Draws a row for each flow: density, and samples from base to data."""
    shown = [
        case for case in cases(options) if picture_path(case, options).exists()
    ]
    shown = [case for case in shown if case["seed"] == SEEDS[0]]
    if not shown:
        print(f"figure5.png stays: its densities are not in {options.runs}.")
        return
    columns = cnf_density.FRAMES + 1
    figure = pictures.new(1.8 * columns, 1.9 * len(shown))
    axes = figure.subplots(len(shown), columns, squeeze=False)
    side = toy_densities.SIDE
    for row, case in zip(axes, shown, strict=True):
        with np.load(picture_path(case, options)) as arrays:
            density, frames = arrays["density"], arrays["frames"]
        extent = (-side, side, -side, side)
        row[0].imshow(density, origin="lower", extent=extent)
        label = f"{case['data']}\n{case['kind']}".replace("_", " ")
        row[0].set_ylabel(label)
        for axis, points in zip(row[1:], frames, strict=True):
            axis.scatter(*points.T, s=0.5, c="k", alpha=0.5, linewidths=0)
            axis.set(xlim=(-side, side), ylim=(-side, side), aspect="equal")
            if np.mean(np.abs(points) < side) < 0.1:
                axis.text(0, 0, "outside", ha="center", va="center")
        for axis in row:
            axis.set(xticks=[], yticks=[])
    times = np.linspace(0, 1, cnf_density.FRAMES)
    titles = ["density", *[f"t = {t:g}" for t in times]]
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title)
    pictures.save(figure, options.logs / "figure5.png")


def main(options):
    """Fits what the log lacks, and draws the first seed's flows."""
    log = Log(options.logs / "figure5.csv", COLUMNS)
    for case in cases(options):
        steps = 10 if options.smoke else STEPS[case["kind"]]
        if not log.rows(**case, steps=steps):
            found = run(case, steps, options)
            log.append(**case, steps=steps, **found)
    draw(options)
