"""Bayesian inference of predator-prey dynamics: hares, lynx, and NUTS.

The pelts that the Hudson's Bay Company bought from 1900 to 1920 follow

    du/dt = (alpha - beta v) u        hares
    dv/dt = (delta u - gamma) v       lynx

with lognormal noise. The No-U-Turn sampler of TensorFlow Probability draws from
the posterior of the four rates, the two populations in 1900 and the two scales
of the noise. All chains are one batch; each has a clock of its own, and the
gradient is that of the discrete solution. The table compares with the reference
draws of posteriordb (Stan). Run it from anywhere:

    python examples/hare_lynx.py
"""

import argparse
import pathlib
import time

import numpy as np
import pictures
import tensorflow as tf
import tensorflow_probability as tfp

import keras_node

tfd = tfp.distributions

HARES = (
    "30 47.2 70.2 77.4 36.3 20.6 18.1 21.4 22 25.4 27.1 40.3 57 76.6 52.3 19.5 "
    "11.2 7.6 14.6 16.2 24.7"
)
LYNX = (
    "4 6.1 9.8 35.2 59.4 41.7 19 13 8.3 9.1 7.4 8 12.3 19.5 45.7 51.1 29.7 "
    "15.8 9.7 10.1 8.6"
)
PELTS = np.array([HARES.split(), LYNX.split()], np.float64).T
YEARS = np.arange(21.0)
NAMES = (
    "alpha",
    "beta",
    "gamma",
    "delta",
    "u(0)",
    "v(0)",
    "sigma_u",
    "sigma_v",
)
# Means, standard deviations and Monte-Carlo errors of 10,000 reference draws:
# posteriordb, `hudson_lynx_hare-lotka_volterra`.
REFERENCE = np.array(
    [
        (0.5469, 0.0630, 6e-4),
        (0.02775, 0.00415, 4e-5),
        (0.8001, 0.0894, 9e-4),
        (0.02409, 0.00353, 4e-5),
        (34.035, 2.917, 0.029),
        (5.936, 0.531, 0.0053),
        (0.2481, 0.0433, 4e-4),
        (0.2510, 0.0436, 4e-4),
    ]
)
SOLVER = keras_node.solvers.Tsit5(
    rtol=1e-6,
    atol=1e-6,
    per_sample_steps=True,
    max_num_steps=400,
    on_failure="nan",
)


def populations(rates, start, times=YEARS):
    """Returns the populations at times, `(..., T, 2)`.

    Args:
        rates: `(..., 4)`, alpha, beta, gamma and delta.
        start: `(..., 2)`, the populations at the first time.
        times: `(T,)`, in years.
    """
    batch = tf.shape(start)[:-1]
    alpha, beta, gamma, delta = tf.unstack(tf.reshape(rates, [-1, 4]), axis=1)

    def f(t, y):
        hares, lynx = tf.unstack(y, axis=1)
        return tf.stack(
            [(alpha - beta * lynx) * hares, (delta * hares - gamma) * lynx],
            axis=1,
        )

    states = keras_node.odeint(
        f, tf.reshape(start, [-1, 2]), times, SOLVER
    ).states
    states = tf.transpose(states, [1, 0, 2])
    # An error of the solver must not make a population negative.
    states = tf.maximum(states, 1e-6)
    return tf.reshape(states, tf.concat([batch, [len(times), 2]], axis=0))


@tfd.JointDistributionCoroutine
def model():
    """Yields the distributions: those of Stan's case study."""
    root = tfd.JointDistributionCoroutine.Root
    location = np.array([1.0, 0.05, 1.0, 0.05])
    scale = np.array([0.5, 0.05, 0.5, 0.05])
    # Normal, above 0; the upper ends are 18 deviations away.
    rates = tfd.TruncatedNormal(location, scale, 0.0, location + 18 * scale)
    rates = yield root(tfd.Independent(rates, 1, name="rates"))
    start = tfd.LogNormal(np.full(2, np.log(10.0)), 1.0)
    start = yield root(tfd.Independent(start, 1, name="start"))
    noise = tfd.LogNormal(np.full(2, -1.0), 1.0)
    noise = yield root(tfd.Independent(noise, 1, name="noise"))
    expected = populations(rates, start)
    pelts = tfd.LogNormal(tf.math.log(expected), noise[..., None, :])
    yield tfd.Independent(pelts, 2, name="pelts")


def draw_posterior(num_chains, num_warmup, num_draws, seed, **options):
    """Returns draws `(num_draws, num_chains, 8)`, and how many diverged.

    Args:
        num_chains, num_warmup, num_draws: Integers.
        seed: Integer.
        **options: `jit_compile` of `tf.function`, default `True`; and other
            arguments of `windowed_adaptive_nuts`.
    """
    jit_compile = options.pop("jit_compile", True)
    # Near what the data suggest: from afar some chains never arrive.
    generator = np.random.default_rng(seed)
    centres = [[0.5, 0.03, 0.8, 0.03], PELTS[0], [0.3, 0.3]]
    shapes = [(num_chains, len(centre)) for centre in centres]
    first = [
        tf.constant(centre * np.exp(0.1 * generator.normal(size=shape)))
        for centre, shape in zip(centres, shapes, strict=True)
    ]

    @tf.function(autograph=False, jit_compile=jit_compile)
    def sample():
        return tfp.experimental.mcmc.windowed_adaptive_nuts(
            num_draws,
            model,
            n_chains=num_chains,
            num_adaptation_steps=num_warmup,
            current_state=first,
            seed=tf.constant([seed, 1]),
            pelts=tf.constant(PELTS),
            **options,
        )

    draws, trace = sample()
    draws = np.concatenate([part.numpy() for part in draws], axis=-1)
    return draws, int(np.sum(trace["diverging"]))


def summarize(draws):
    """Prints means beside the reference; returns them with errors and R-hat.

    Returns:
        Dict with `mean`, `sd`, `error` (Monte-Carlo) and `r_hat`, `(8,)` each;
        `distance`, how far the means are from the reference in units of both
        Monte-Carlo errors together.
    """
    size = tfp.mcmc.effective_sample_size(draws, cross_chain_dims=1).numpy()
    mean, sd = draws.mean(axis=(0, 1)), draws.std(axis=(0, 1))
    error = sd / np.sqrt(size)
    r_hat = tfp.mcmc.potential_scale_reduction(
        draws, independent_chain_ndims=1, split_chains=True
    ).numpy()
    theirs, their_sd, their_error = REFERENCE.T
    distance = np.abs(mean - theirs) / np.hypot(error, their_error)
    print(
        f"{'':9}{'mean':>10}{'sd':>10}{'Stan':>10}{'sd':>10}"
        f"{'distance':>10}{'R-hat':>8}{'draws':>8}"
    )
    for i, name in enumerate(NAMES):
        print(
            f"{name:9}{mean[i]:10.4g}{sd[i]:10.3g}{theirs[i]:10.4g}"
            f"{their_sd[i]:10.3g}{distance[i]:10.2f}{r_hat[i]:8.4f}"
            f"{size[i]:8.0f}"
        )
    return {
        "mean": mean,
        "sd": sd,
        "error": error,
        "r_hat": r_hat,
        "distance": distance,
    }


def draw(draws, path, seed):
    """Draws the chains of the four rates, and the posterior predictive."""
    figure = pictures.new(9, 6)
    grid = figure.add_gridspec(4, 2, width_ratios=(1, 1.6))
    for i in range(4):
        axis = figure.add_subplot(grid[i, 0])
        for chain in range(min(4, draws.shape[1])):
            axis.plot(draws[:, chain, i], c=f"C{chain}", lw=0.4)
        axis.set_ylabel(NAMES[i])
        if i < 3:
            axis.set_xticks([])
    axis.set_xlabel("draw, four of the chains")
    flat = draws.reshape(-1, 8)
    generator = np.random.default_rng(seed)
    flat = flat[generator.choice(len(flat), min(400, len(flat)))]
    times = np.linspace(0.0, 20.0, 121)
    expected = populations(flat[:, :4], flat[:, 4:6], times).numpy()
    noise = flat[:, None, 6:] * generator.normal(size=expected.shape)
    predicted = expected * np.exp(noise)
    for i, name in enumerate(("hares", "lynx")):
        axis = figure.add_subplot(grid[2 * i : 2 * i + 2, 1])
        low, high = np.quantile(predicted[..., i], (0.05, 0.95), axis=0)
        axis.fill_between(
            1900 + times, low, high, color=f"C{i}", alpha=0.2, lw=0
        )
        axis.plot(1900 + times, np.median(expected[..., i], axis=0), c=f"C{i}")
        axis.plot(1900 + YEARS, PELTS[:, i], "o", c=f"C{i}", ms=4)
        axis.set(
            ylabel=f"{name}, thousands of pelts",
            ylim=(0, None),
            xticks=range(1900, 1921, 5),
        )
    axis.set_xlabel("year")
    pictures.save(figure, path)


def parse_arguments(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n", maxsplit=1)[0]
    )
    parser.add_argument("--chains", type=int, default=16)
    parser.add_argument("--warmup", type=int, default=400)
    parser.add_argument("--draws", type=int, default=500, help="of a chain")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--smoke", action="store_true", help="little of all")
    parser.add_argument("--output", type=pathlib.Path, default="hare_lynx.png")
    arguments = parser.parse_args(argv)
    if arguments.smoke:
        arguments.chains, arguments.warmup, arguments.draws = 2, 16, 8
    return arguments


def main(argv=None):
    arguments = parse_arguments(argv)
    # To compile takes longer than a few draws.
    little = {"jit_compile": None, "max_tree_depth": 2}
    start = time.perf_counter()
    draws, num_diverged = draw_posterior(
        arguments.chains,
        arguments.warmup,
        arguments.draws,
        arguments.seed,
        **(little if arguments.smoke else {}),
    )
    seconds = time.perf_counter() - start
    print(
        f"{draws.shape[1]} chains of {len(draws)} draws in {seconds:.0f} s, "
        f"of which {num_diverged} diverged"
    )
    summary = summarize(draws)
    draw(draws, arguments.output, arguments.seed)
    return summary


if __name__ == "__main__":
    tf.get_logger().setLevel("ERROR")
    main()
