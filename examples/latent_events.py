"""Event times alone: a latent ODE infers how their rate goes on (Figure 7).

Each series is a Poisson process whose intensity swings with a phase of its own,
`4 (1 + 0.9 sin(t + phase))`; all that is given are the times of events. The
model infers the latent state, and with it the intensity at any time. Prints the
log-likelihood of series that it has not seen, and draws three intensities.

    python examples/latent_events.py

Reference:
- [Chen et al., 2018, section 5.1](https://arxiv.org/abs/1806.07366)
"""

import argparse
import time

import keras
import numpy as np
import pictures

import keras_node

WINDOW = (0.0, 10.0)
MOST = 4.0 * 1.9
GRID = np.linspace(*WINDOW, 101)


def intensity(times, phase):
    return 4.0 * (1.0 + 0.9 * np.sin(times + phase))


def simulate(count, seed):
    """Returns events by thinning, padded, with their mask, and the phases."""
    rng = np.random.default_rng(seed)
    phases = rng.uniform(0, 2 * np.pi, count)
    series = []
    for phase in phases:
        number = rng.poisson(MOST * (WINDOW[1] - WINDOW[0]))
        times = np.sort(rng.uniform(*WINDOW, number))
        keep = rng.random(number) * MOST < intensity(times, phase)
        series.append(times[keep])
    longest = max(map(len, series))
    times, mask = np.zeros((count, longest)), np.zeros((count, longest), bool)
    for row, seen, events in zip(times, mask, series, strict=True):
        row[: len(events)], seen[: len(events)] = events, True
    return {"times": times, "mask": mask}, phases


def make_model():
    return keras_node.LatentODE(
        observation_dim=0,
        latent_dim=4,
        likelihood=keras_node.likelihoods.PoissonProcessLikelihood(WINDOW),
        solver=keras_node.solvers.Tsit5(rtol=1e-3, atol=1e-3),
    )


def log_likelihood(rate_at_events, integral, mask):
    """Returns the mean over the series, in nats."""
    log_rates = np.log(np.where(mask, rate_at_events, 1.0))
    return float(np.mean(log_rates.sum(axis=1) - integral))


def true_integral(phases):
    start, end = WINDOW
    swing = np.cos(start + phases) - np.cos(end + phases)
    return 4.0 * (end - start + 0.9 * swing)


def compare(model, data, phases):
    """Returns rows of the table: the bound, and what there is to reach."""
    mask = data["mask"]
    number = mask.sum()
    constant = number / len(mask) / (WINDOW[1] - WINDOW[0])
    truth = intensity(data["times"], phases[:, None])
    estimate = model.reconstruct(**data, target_times=GRID)[..., 0]
    expected = intensity(GRID, phases[:, None])
    rmse = np.sqrt(np.mean((estimate - expected) ** 2))
    bound = model.importance_weighted_bound(**data, num_samples=64, seed=0)
    return {
        "constant rate": (
            log_likelihood(constant, constant * (WINDOW[1] - WINDOW[0]), mask),
            np.sqrt(np.mean((constant - expected) ** 2)),
        ),
        "latent ODE (bound)": (float(np.mean(bound)), rmse),
        "true intensity": (
            log_likelihood(truth, true_integral(phases), mask),
            0.0,
        ),
    }


def print_table(rows):
    print("\nUnseen series          log-likelihood (nats)  RMSE of intensity")
    for name, (value, rmse) in rows.items():
        print(f"{name:<23}{value:>21.2f}{rmse:>19.3f}")


def draw(model, data, phases, path):
    """Draws three series: events, the true intensity, and the model's."""
    few = {name: array[:3] for name, array in data.items()}
    result = model.reconstruct(
        **few, target_times=GRID, num_samples=200, seed=0
    )
    figure = pictures.new(12, 2.6)
    axes = figure.subplots(1, 3, sharey=True)
    for i, axis in enumerate(axes):
        lower, upper = result.lower[i, :, 0], result.upper[i, :, 0]
        axis.fill_between(
            GRID, lower, upper, color="C0", alpha=0.3, label="9 of 10 samples"
        )
        axis.plot(GRID, result.mean[i, :, 0], c="C0", label="latent ODE")
        axis.plot(GRID, intensity(GRID, phases[i]), "k--", label="truth")
        events = few["times"][i][few["mask"][i]]
        axis.plot(events, np.zeros_like(events), "k|", ms=12, label="events")
        axis.set(xlabel="time", xlim=(GRID[0], GRID[-1]))
    axes[0].set_ylabel("events per unit of time")
    figure.legend(*axis.get_legend_handles_labels(), loc="outside right")
    pictures.save(figure, path)


def parse_arguments(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n", maxsplit=1)[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--count", type=int, default=1_000)
    parser.add_argument("--epochs", type=int, default=150)
    parser.add_argument("--batch-size", type=int, default=100)
    parser.add_argument("--learning-rate", type=float, default=1e-2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", default="latent_events.png")
    parser.add_argument("--verbose", type=int, default=2)
    parser.add_argument(
        "--smoke", action="store_true", help="one step, to try it"
    )
    arguments = parser.parse_args(argv)
    if arguments.smoke:
        arguments.count, arguments.epochs = 20, 1
    return arguments


def main(argv=None):
    arguments = parse_arguments(argv)
    keras.utils.set_random_seed(arguments.seed)
    data, _ = simulate(arguments.count, arguments.seed)
    steps = arguments.epochs * -(-arguments.count // arguments.batch_size)
    rate = keras.optimizers.schedules.CosineDecay(
        arguments.learning_rate, steps, alpha=0.01
    )
    model = make_model()
    model.compile(keras.optimizers.Adam(rate, clipnorm=10.0))
    start = time.perf_counter()
    model.fit(
        data,
        batch_size=arguments.batch_size,
        epochs=arguments.epochs,
        verbose=arguments.verbose,
    )
    print(f"Trained in {time.perf_counter() - start:.0f} s.")
    unseen, phases = simulate(200, arguments.seed + 1)
    print_table(compare(model, unseen, phases))
    draw(model, unseen, phases, arguments.output)


if __name__ == "__main__":
    main()
