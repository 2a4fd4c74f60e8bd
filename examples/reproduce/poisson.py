"""Figure 7: event times alone; the intensity learnt with the trajectories.

A Poisson process whose intensity swings with a phase of its own in each series,
`latent_events.py`'s. Reports nats of series held out, beside the true
intensity and a constant one, five seeds.
"""

import time

import keras
import latent_events

from examples.reproduce.logs import Log

COLUMNS = (
    "seed epochs bound bound_constant bound_true rmse rmse_constant seconds"
).split()
SEEDS = (0, 1, 2, 3, 4)
EPOCHS = 150


def run(seed, epochs, options):
    """Trains a model; returns what the log says of it."""
    arguments = latent_events.parse_arguments(
        ["--smoke"] if options.smoke else []
    )
    keras.utils.set_random_seed(seed)
    data, _ = latent_events.simulate(arguments.count, 2 * seed)
    steps = epochs * -(-arguments.count // arguments.batch_size)
    rate = keras.optimizers.schedules.CosineDecay(1e-2, steps, alpha=0.01)
    model = latent_events.make_model()
    model.compile(keras.optimizers.Adam(rate, clipnorm=10.0))
    start = time.perf_counter()
    model.fit(data, batch_size=arguments.batch_size, epochs=epochs, verbose=0)
    seconds = time.perf_counter() - start
    unseen, phases = latent_events.simulate(200, 2 * seed + 1)
    rows = latent_events.compare(model, unseen, phases)
    if seed == SEEDS[0]:
        path = options.logs / "poisson.png"
        latent_events.draw(model, unseen, phases, path)
    return {
        "bound": rows["latent ODE (bound)"][0],
        "bound_constant": rows["constant rate"][0],
        "bound_true": rows["true intensity"][0],
        "rmse": rows["latent ODE (bound)"][1],
        "rmse_constant": rows["constant rate"][1],
        "seconds": seconds,
    }


def main(options):
    """Trains the seeds that the log lacks."""
    log = Log(options.logs / "poisson.csv", COLUMNS)
    for seed in options.seeds or (SEEDS[:1] if options.smoke else SEEDS):
        epochs = options.epochs or (1 if options.smoke else EPOCHS)
        if not log.rows(seed=seed, epochs=epochs):
            found = run(seed, epochs, options)
            log.append(seed=seed, epochs=epochs, **found)
