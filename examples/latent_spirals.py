"""Spirals from few points: a latent ODE and a recurrent network (Table 2).

A thousand spirals in the plane, half of them clockwise, are seen at some of 100
equally spaced times, through noise. Both models are trained on what was seen;
then each predicts 100 times beyond. Prints the root mean square errors of these
predictions, and draws reconstructions, extrapolations and latent trajectories.

    python examples/latent_spirals.py
    python examples/latent_spirals.py --observed 30 --seeds 0 1
    python examples/latent_spirals.py --paper

The paper does not state its noise, its spirals' size, nor how long it trained.
Here the radius grows from about 0.2 to 1.1, the two kinds have centres 2 apart,
the noise is `--noise`, errors are those to the curve without noise, and both
recurrent networks are gated.

Reference:
- [Chen et al., 2018, section 5.1](https://arxiv.org/abs/1806.07366)
"""

import argparse
import time

import keras
import numpy as np
import pictures

import keras_node

COUNT, NUM_TIMES = 1_000, 100
# 500 points make three turns; a series is 100 of them, and the next 100.
STEP = 6 * np.pi / 500
TIMES = (STEP * np.arange(2 * NUM_TIMES)).astype("float32")
LATENT_DIM, HIDDEN, RNN_UNITS = 4, 20, 25
PAPER = {
    "latent ODE": {30: 0.1642, 50: 0.1502, 100: 0.1346},
    "RNN": {30: 0.3937, 50: 0.3202, 100: 0.1813},
}


def make_spirals(count, seed):
    """Returns curves without noise, `(count, 200, 2)`; odd ones clockwise."""
    rng = np.random.default_rng(seed)
    angle = STEP * rng.integers(100, 300, size=(count, 1)) + TIMES
    sign = np.where(np.arange(count) % 2, -1.0, 1.0)[:, None]
    radius = 0.06 * angle
    x = radius * np.cos(angle) + sign
    y = radius * np.sin(angle) * sign
    return np.stack([x, y], axis=-1).astype("float32")


def observe(curves, num_observed, noise, seed):
    """Returns the data of the first 100 times, some of them observed."""
    rng = np.random.default_rng(seed + 1)
    seen = curves[:, :NUM_TIMES]
    values = seen + noise * rng.normal(size=seen.shape).astype("float32")
    order = rng.random((len(curves), NUM_TIMES)).argsort(axis=1)
    mask = order < num_observed
    return {"values": values, "times": TIMES[:NUM_TIMES], "mask": mask}


def make_latent_ode(scale):
    """Returns the paper's model: latent dimension 4, one hidden layer each."""
    return keras_node.LatentODE(
        observation_dim=2,
        latent_dim=LATENT_DIM,
        encoder=keras.layers.GRU(RNN_UNITS, go_backwards=True, use_cudnn=False),
        dynamics=keras.Sequential(
            [keras.layers.Dense(HIDDEN, "elu"), keras.layers.Dense(LATENT_DIM)]
        ),
        decoder=keras.Sequential(
            [keras.layers.Dense(HIDDEN, "relu"), keras.layers.Dense(2)]
        ),
        likelihood=keras_node.likelihoods.NormalLikelihood(scale),
    )


def make_optimizer(arguments):
    """Returns Adam, its rate falling to a hundredth along a cosine."""
    steps = arguments.epochs * -(-arguments.count // arguments.batch_size)
    rate = keras.optimizers.schedules.CosineDecay(
        arguments.learning_rate, steps, alpha=0.01
    )
    return keras.optimizers.Adam(rate, clipnorm=1.0)


def train_latent_ode(data, arguments):
    """Returns a fitted model."""
    model = make_latent_ode(arguments.noise)
    model.compile(make_optimizer(arguments))
    model.fit(
        data,
        batch_size=arguments.batch_size,
        epochs=arguments.epochs,
        verbose=arguments.verbose,
    )
    return model


class NextPoint(keras.layers.Layer):
    """The paper's baseline: a recurrent network of points and time gaps.

    Predicts each point from those before it and the gap to it.
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.cell = keras.layers.GRUCell(RNN_UNITS)
        self.readout = keras.layers.Dense(2)

    def build(self, input_shape):
        self.cell.build((None, 3))
        self.readout.build((None, RNN_UNITS))

    def step(self, point, gap, state):
        """Returns the next point, and the state after it."""
        inputs = keras.ops.concatenate([point, gap], axis=-1)
        state, _ = self.cell(inputs, [state])
        return point + self.readout(state), state

    def call(self, points, gaps):
        """Returns the prediction of each next point, `(batch, T, 2)`."""
        state = keras.ops.zeros((keras.ops.shape(points)[0], RNN_UNITS))
        predictions = []
        for i in range(points.shape[1]):
            prediction, state = self.step(points[:, i], gaps[:, i], state)
            predictions.append(prediction)
        return keras.ops.stack(predictions, axis=1)

    def extrapolate(self, points, gaps, count):
        """Returns `count` more points, each a step after the one before."""
        state = keras.ops.zeros((len(points), RNN_UNITS))
        for i in range(points.shape[1]):
            point, state = self.step(points[:, i], gaps[:, i], state)
        predictions = [point]
        for _ in range(count - 1):
            point, state = self.step(point, gaps[:, -1], state)
            predictions.append(point)
        return keras.ops.stack(predictions, axis=1)


def seen_points(data):
    """Returns the observed points alone, and the gaps from each to the next.

    The last gap is that of the first time beyond.
    """
    mask = data["mask"]
    points = data["values"][mask].reshape(len(mask), -1, 2)
    times = np.broadcast_to(data["times"], mask.shape)[mask]
    times = times.reshape(len(mask), -1)
    beyond = np.full((len(mask), 1), TIMES[NUM_TIMES], "float32")
    gaps = np.diff(np.concatenate([times, beyond], axis=1), axis=1)
    return points, gaps[..., None]


def train_rnn(data, arguments):
    """Returns a fitted baseline."""
    points, gaps = seen_points(data)
    layer = NextPoint()
    inputs = [points[:, :-1], gaps[:, :-1]]
    symbols = [keras.Input(array.shape[1:]) for array in inputs]
    model = keras.Model(symbols, layer(*symbols))
    model.compile(make_optimizer(arguments), "mse")
    model.fit(
        inputs,
        points[:, 1:],
        batch_size=arguments.batch_size,
        epochs=arguments.epochs,
        verbose=arguments.verbose,
    )
    return layer


def rmse(predictions, curves):
    return float(np.sqrt(np.mean((predictions - curves) ** 2)))


def run(num_observed, seed, arguments):
    """Returns the errors beyond the training times, and the latent ODE."""
    keras.utils.set_random_seed(seed)
    curves = make_spirals(arguments.count, seed)
    data = observe(curves, num_observed, arguments.noise, seed)
    beyond = curves[:, NUM_TIMES:]
    start = time.perf_counter()
    model = train_latent_ode(data, arguments)
    middle = time.perf_counter()
    rnn = train_rnn(data, arguments)
    end = time.perf_counter()
    predictions = model.reconstruct(**data, target_times=TIMES).numpy()
    errors = {
        "latent ODE": rmse(predictions[:, NUM_TIMES:], beyond),
        "RNN": rmse(rnn.extrapolate(*seen_points(data), NUM_TIMES), beyond),
        "within": rmse(predictions[:, :NUM_TIMES], curves[:, :NUM_TIMES]),
    }
    print(
        f"seed {seed}, {num_observed} observed: "
        + ", ".join(f"{name} {error:.4f}" for name, error in errors.items())
        + f" ({middle - start:.0f} s and {end - middle:.0f} s)",
        flush=True,
    )
    return errors, (model, data, curves, predictions)


def print_table(errors):
    """Prints mean errors over the seeds, beside the paper's."""
    print("\nRMSE on 100 times beyond the training's, without noise")
    print("Observed latent ODE    paper        RNN    paper    within")
    for num_observed, rows in errors.items():
        means = {k: np.mean([row[k] for row in rows]) for k in rows[0]}
        cells = "".join(
            f"{means[name]:>11.4f} {paper.get(num_observed, ''):>8}"
            for name, paper in PAPER.items()
        )
        print(f"{num_observed:>8}{cells}{means['within']:>10.4f}")


def draw(model, data, curves, predictions, path):
    """Draws four spirals with their predictions, and latent trajectories."""
    figure = pictures.new(15, 3.2)
    axes = figure.subplots(1, 5)
    for i, axis in enumerate(axes[:4]):
        seen = data["values"][i][data["mask"][i]]
        axis.plot(*curves[i].T, c="0.8", lw=4, label="truth")
        axis.scatter(*seen.T, s=6, c="k", label="observed")
        halves = (predictions[i, : NUM_TIMES + 1], predictions[i, NUM_TIMES:])
        for part, (label, half) in enumerate(
            zip(("reconstructed", "extrapolated"), halves, strict=True)
        ):
            axis.plot(*half.T, c=f"C{part}", lw=1.5, label=label)
        axis.set(title="clockwise" if i % 2 else "counter-clockwise")
        axis.set(xticks=[], yticks=[], aspect="equal")
        axis.set_adjustable("datalim")
    axes[0].legend()
    z0 = model.encode(**data).mean()[:40]
    paths = keras_node.odeint(model.dynamics, z0, TIMES).states.numpy()
    # The two directions in which the trajectories differ most.
    flat = paths.reshape(-1, LATENT_DIM)
    _, _, directions = np.linalg.svd(flat - flat.mean(0), full_matrices=False)
    projected = (paths - flat.mean(0)) @ directions[:2].T
    for way, color in ((1, "C0"), (0, "C4")):
        lines = axes[4].plot(
            *np.moveaxis(projected[:, 1 - way :: 2], 2, 0), c=color, lw=0.7
        )
        lines[0].set_label("counter-clockwise" if way else "clockwise")
    axes[4].legend()
    axes[4].set(title="latent trajectories", xticks=[], yticks=[])
    pictures.save(figure, path)


def parse_arguments(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n", maxsplit=1)[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--observed", type=int, nargs="+", default=[30, 50, 100]
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--count", type=int, default=COUNT)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--batch-size", type=int, default=100)
    parser.add_argument("--learning-rate", type=float, default=1e-2)
    parser.add_argument("--noise", type=float, default=0.1)
    parser.add_argument("--output", default="latent_spirals.png")
    parser.add_argument("--verbose", type=int, default=0)
    parser.add_argument(
        "--paper", action="store_true", help="400 epochs, two seeds"
    )
    parser.add_argument(
        "--smoke", action="store_true", help="one step of little, to try it"
    )
    arguments = parser.parse_args(argv)
    if arguments.paper:
        arguments.epochs, arguments.seeds = 400, [0, 1]
    if arguments.smoke:
        arguments.observed, arguments.epochs, arguments.count = [10], 1, 40
    return arguments


def main(argv=None):
    arguments = parse_arguments(argv)
    errors = {}
    for num_observed in arguments.observed:
        errors[num_observed] = []
        for seed in arguments.seeds:
            row, shown = run(num_observed, seed, arguments)
            errors[num_observed].append(row)
    print_table(errors)
    draw(*shown, arguments.output)


if __name__ == "__main__":
    main()
