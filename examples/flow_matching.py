"""Flow matching beside maximum likelihood: five densities, equal time.

The same network is fitted to each set by likelihood, by flow matching, and by
flow matching followed by likelihood, each for the same seconds of training.
Prints the nats of points held out, and what a sample takes; draws samples.

    python examples/flow_matching.py
    python examples/flow_matching.py --datasets two_moons --seconds 10

What the log has already is not trained again.

Reference:
- [Lipman et al., 2023](https://arxiv.org/abs/2210.02747)
"""

import argparse
import pathlib
import time

import cnf_density
import keras
import numpy as np
import pictures
import tensorflow as tf
import toy_densities
from csv_log import append, keep_smoke_apart, read

METHODS = {
    "likelihood": [("likelihood", 1.0)],
    "flow matching": [("flow_matching", 1.0)],
    "both": [("flow_matching", 0.5), ("likelihood", 0.5)],
}
RATES = {"likelihood": 1e-2, "flow_matching": 5e-3}
BATCH_SIZE, HELD_OUT, SHOWN = 256, 10_000, 2_000
NUM_BATCHES = 4096  # After as many, the same points come again.


class TimeBudget(keras.callbacks.Callback):
    """Ends training after some seconds, the rate falling along a cosine.

    The clock starts after the first step, which includes tracing.
    """

    def __init__(self, seconds, rate):
        super().__init__()
        self.seconds, self.rate = seconds, rate
        self.steps, self.elapsed, self._start = 0, 0.0, None

    def on_train_batch_end(self, batch, logs=None):
        self.steps += 1
        self._start = self._start or time.perf_counter()
        self.elapsed = time.perf_counter() - self._start
        done = min(self.elapsed / self.seconds, 1.0)
        rate = self.rate * (1 + np.cos(np.pi * done)) / 2
        self.model.optimizer.learning_rate = rate
        self.model.stop_training = done == 1


def fit(flow, name, objective, seconds, seed):
    """Trains for so many seconds; returns steps and seconds taken."""
    rate = RATES[objective]
    flow.compile(keras.optimizers.Adam(rate), objective=objective)
    points = toy_densities.sample(name, NUM_BATCHES * BATCH_SIZE, seed)
    batches = points.reshape(NUM_BATCHES, BATCH_SIZE, 2)
    data = tf.data.Dataset.from_tensor_slices(batches).repeat()
    budget = TimeBudget(seconds, rate)
    flow.fit(
        data,
        steps_per_epoch=10**9,
        shuffle=False,
        callbacks=[budget],
        verbose=0,
    )
    return budget.steps, budget.elapsed


def sampling_nfe(flow):
    """Returns the evaluations of a solve from base to data."""
    flow.sample(SHOWN, seed=0)
    return float(np.mean(flow.bijector.diagnostics.num_ode_fn_evaluations))


def run(name, method, seed, arguments):
    """Fits one flow; returns a row of the log, and samples."""
    keras.utils.set_random_seed(seed)
    field = cnf_density.make_field(arguments.width)
    flow = cnf_density.make_flow(field, arguments.rtol)
    flow.build((None, 2))
    steps = seconds = 0
    for objective, share in METHODS[method]:
        more = fit(flow, name, objective, share * arguments.seconds, seed)
        steps, seconds = steps + more[0], seconds + more[1]
    nfe = sampling_nfe(flow)
    # The dial: trained fast, evaluated accurately.
    flow = cnf_density.make_flow(field, cnf_density.EVALUATION_RTOL)
    test = toy_densities.sample(name, HELD_OUT, seed + 1)
    log_prob = flow.predict(test, batch_size=HELD_OUT, verbose=0)
    row = {
        "data": name,
        "method": method,
        "seed": seed,
        "steps": steps,
        "seconds": round(seconds, 1),
        "nats": round(float(-np.mean(log_prob)), 4),
        "sampling_nfe": nfe,
    }
    return row, flow.sample(SHOWN, seed=1).numpy()


def draw(samples, path):
    """Draws the data and the samples of each method, a row for each set."""
    names = list(dict.fromkeys(name for name, _ in samples))
    columns = len(METHODS) + 1
    figure = pictures.new(2 * columns, 2.1 * len(names))
    axes = figure.subplots(len(names), columns, squeeze=False)
    side = toy_densities.SIDE
    for row, name in zip(axes, names, strict=True):
        panels = {"data": toy_densities.sample(name, SHOWN, 2)}
        panels |= {method: samples[name, method] for method in METHODS}
        row[0].set_ylabel(name.replace("_", " "))
        for axis, (title, points) in zip(row, panels.items(), strict=True):
            axis.scatter(*points.T, s=0.5, c="k", alpha=0.5, linewidths=0)
            axis.set(xlim=(-side, side), ylim=(-side, side), title=title)
            axis.set(xticks=[], yticks=[], aspect="equal")
    pictures.save(figure, path)


def parse_arguments(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n", maxsplit=1)[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    names = list(toy_densities.DENSITIES)
    parser.add_argument("--datasets", nargs="+", choices=names, default=names)
    parser.add_argument(
        "--seconds", type=float, default=40.0, help="of training, each"
    )
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--rtol", type=float, default=1e-3, help="in training")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--output", default="flow_matching.png")
    log = pathlib.Path("flow_matching.csv")
    parser.add_argument("--log", type=pathlib.Path, default=log)
    parser.add_argument(
        "--smoke", action="store_true", help="one set, a blink, to try it"
    )
    arguments = parser.parse_args(argv)
    keep_smoke_apart(arguments, parser)
    if arguments.smoke:
        arguments.seconds, arguments.width = 0.05, 8
        arguments.datasets, arguments.seeds = arguments.datasets[:1], [0]
    return arguments


def main(argv=None):
    arguments = parse_arguments(argv)
    log, samples = arguments.log, {}
    logged = {(r["data"], r["method"], int(r["seed"])) for r in read(log)}
    print("Data             Method         Seed  Steps   Nats  NFE of a sample")
    for seed in arguments.seeds:
        for name in arguments.datasets:
            for method in METHODS:
                if (name, method, seed) in logged:
                    continue
                row, points = run(name, method, seed, arguments)
                append(log, row)
                if seed == arguments.seeds[0]:
                    samples[name, method] = points
                print(
                    f"{name:<17}{method:<14}{seed:>5}{row['steps']:>7}"
                    f"{row['nats']:>7.3f}{row['sampling_nfe']:>17.0f}",
                    flush=True,
                )
    if len(samples) == len(METHODS) * len(arguments.datasets):
        draw(samples, arguments.output)
    else:
        print("The picture stays: not all of its samples were drawn anew.")


if __name__ == "__main__":
    main()
