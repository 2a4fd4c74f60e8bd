"""Spoken vowels with half of the frames hidden: who fills the gaps best?

Recordings of nine speakers who say /ae/ (UCI Japanese Vowels: 270 and 370
utterances of 7 to 29 frames, 12 cepstral coefficients). Half of the frames of
each test utterance are hidden at random. Prints the root mean square error on
them, in standard deviations of the training set's coefficients, and draws an
utterance with the band that the latent ODE believes in.

    python examples/latent_vowels.py
    python examples/latent_vowels.py --epochs 40

A smooth curve through the neighbours is hard to beat here, and a latent ODE has
to tell a whole utterance by one vector; so the table has both together, too:
the model's curve, and what it misses at the frames that are seen interpolated.

Reference:
- [Rubanova et al., 2019](https://arxiv.org/abs/1907.03907)
- [Kudo et al., 1999](https://doi.org/10.24432/C5NS47), the recordings
"""

import argparse
import pathlib
import time

import keras
import numpy as np
import pictures

import keras_node

PATH = pathlib.Path(__file__).parent / "japanese_vowels.npz"
NUM_FRAMES, NUM_COEFFICIENTS = 29, 12
# In tens of frames, so that an utterance takes about two units.
TIMES = (np.arange(NUM_FRAMES) / 10).astype("float32")
LATENT_DIM, HIDDEN = 24, 64
SHOWN = 5


def load():
    """Returns training and test frames, standardized, and their lengths."""
    with np.load(PATH) as arrays:
        frames = {name: arrays[name] for name in arrays.files}
    mean = np.nanmean(frames["x_train"], axis=(0, 1))
    deviation = np.nanstd(frames["x_train"], axis=(0, 1))
    return {
        part: (
            np.nan_to_num((frames[f"x_{part}"] - mean) / deviation),
            frames[f"length_{part}"],
        )
        for part in ("train", "test")
    }


def hide(lengths, seed):
    """Returns which frames are seen, half of each utterance, and hidden."""
    rng = np.random.default_rng(seed)
    spoken = np.arange(NUM_FRAMES) < lengths[:, None]
    order = np.where(spoken, rng.random(spoken.shape), 2.0)
    rank = order.argsort(axis=1).argsort(axis=1)
    seen = rank < (lengths[:, None] + 1) // 2
    return seen, spoken & ~seen


def training_set(frames, lengths, copies):
    """Returns each utterance `copies` times, other frames hidden in each."""
    masks = [hide(lengths, seed) for seed in range(copies)]
    seen, hidden = (np.concatenate(part) for part in zip(*masks, strict=True))
    return np.tile(frames, (copies, 1, 1)), seen, hidden


def interpolate(frames, seen):
    """Returns straight lines between the frames seen, flat beyond them."""
    result = np.zeros_like(frames)
    for row, values, mask in zip(result, frames, seen, strict=True):
        for k in range(NUM_COEFFICIENTS):
            row[:, k] = np.interp(TIMES, TIMES[mask], values[mask, k])
    return result


def make_optimizer(count, arguments):
    steps = arguments.epochs * -(-count // arguments.batch_size)
    rate = keras.optimizers.schedules.CosineDecay(
        arguments.learning_rate, steps, alpha=0.01
    )
    return keras.optimizers.Adam(rate, clipnorm=1.0)


def train_latent_ode(frames, seen, hidden, arguments):
    """Returns a model that is trained to tell all frames from those seen."""
    recurrent = keras.layers.GRU(HIDDEN, use_cudnn=False)
    model = keras_node.LatentODE(
        observation_dim=NUM_COEFFICIENTS,
        latent_dim=LATENT_DIM,
        encoder=keras.layers.Bidirectional(recurrent),
        dynamics=keras.Sequential(
            [keras.layers.Dense(HIDDEN, "tanh"), keras.layers.Dense(LATENT_DIM)]
        ),
        decoder=keras.layers.Dense(NUM_COEFFICIENTS),
    )
    model.compile(make_optimizer(len(frames), arguments))
    targets = {"values": frames, "times": TIMES, "mask": seen | hidden}
    model.fit(
        {"values": frames, "times": TIMES, "mask": seen, "targets": targets},
        batch_size=arguments.batch_size,
        epochs=arguments.epochs,
        verbose=arguments.verbose,
    )
    return model


def gru_inputs(frames, seen):
    """Returns frames seen, mask, and time since the last frame seen."""
    last = np.maximum.accumulate(np.where(seen, TIMES, -0.1), axis=1)
    before = np.concatenate([np.full_like(last[:, :1], -0.1), last[:, :-1]], 1)
    gap = TIMES - before
    parts = [frames * seen[..., None], seen[..., None], gap[..., None]]
    return np.concatenate(parts, axis=-1).astype("float32")


def train_gru(frames, seen, hidden, arguments):
    """Returns a recurrent network that tells each frame from those before."""
    model = keras.Sequential(
        [
            keras.Input((NUM_FRAMES, NUM_COEFFICIENTS + 2)),
            keras.layers.GRU(HIDDEN, return_sequences=True),
            keras.layers.Dense(NUM_COEFFICIENTS),
        ]
    )
    model.compile(make_optimizer(len(frames), arguments), "mse")
    model.fit(
        gru_inputs(frames, seen),
        frames,
        sample_weight=(seen | hidden).astype("float32"),
        batch_size=arguments.batch_size,
        epochs=arguments.epochs,
        verbose=arguments.verbose,
    )
    return model


def corrected(predictions, frames, seen):
    """Returns predictions that go through the frames that are seen."""
    return predictions + interpolate(frames - predictions, seen)


def print_table(rows, frames, hidden):
    print("\nRMSE on hidden frames, in standard deviations")
    for name, predictions in rows.items():
        error = np.sqrt(np.mean((predictions - frames)[hidden] ** 2))
        print(f"{name:<40}{error:>8.4f}")


def draw(model, frames, seen, hidden, path):
    """Draws some coefficients of one utterance, and the model's band."""
    i = int(np.argmax(seen.sum(axis=1)))
    fine = np.linspace(TIMES[0], TIMES[-1], 120)
    result = model.reconstruct(
        frames[i : i + 1],
        TIMES,
        seen[i : i + 1],
        target_times=fine,
        num_samples=200,
        seed=0,
    )
    figure = pictures.new(3 * SHOWN, 2.6)
    for k, axis in enumerate(figure.subplots(1, SHOWN)):
        lower, upper = result.lower[0, :, k], result.upper[0, :, k]
        axis.fill_between(fine, lower, upper, color="C0", alpha=0.3)
        axis.plot(fine, result.mean[0, :, k], c="C0", label="latent ODE")
        for mask, fill, label in (
            (seen[i], "k", "seen"),
            (hidden[i], "none", "hidden"),
        ):
            axis.scatter(
                TIMES[mask],
                frames[i, mask, k],
                s=14,
                facecolors=fill,
                edgecolors="k",
                label=label,
            )
        axis.set(title=f"coefficient {k + 1}", xlabel="tens of frames")
    axis.legend()
    pictures.save(figure, path)


def parse_arguments(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n", maxsplit=1)[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument(
        "--copies", type=int, default=20, help="of each utterance, in an epoch"
    )
    parser.add_argument("--batch-size", type=int, default=90)
    parser.add_argument("--learning-rate", type=float, default=5e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", default="latent_vowels.png")
    parser.add_argument("--verbose", type=int, default=2)
    parser.add_argument(
        "--smoke", action="store_true", help="three steps, to try it"
    )
    arguments = parser.parse_args(argv)
    if arguments.smoke:
        arguments.epochs, arguments.copies = 1, 1
    return arguments


def main(argv=None):
    arguments = parse_arguments(argv)
    keras.utils.set_random_seed(arguments.seed)
    data = load()
    train = training_set(*data["train"], arguments.copies)
    frames, lengths = data["test"]
    seen, hidden = hide(lengths, arguments.copies + arguments.seed)
    start = time.perf_counter()
    model = train_latent_ode(*train, arguments)
    gru = train_gru(*train, arguments)
    print(f"Trained in {time.perf_counter() - start:.0f} s.")
    latent = model.reconstruct(frames, TIMES, seen).numpy()
    recurrent = gru.predict(gru_inputs(frames, seen), verbose=0)
    rows = {
        "linear interpolation": interpolate(frames, seen),
        "GRU with time gaps": recurrent,
        "latent ODE": latent,
        "GRU, residuals interpolated": corrected(recurrent, frames, seen),
        "latent ODE, residuals interpolated": corrected(latent, frames, seen),
    }
    print_table(rows, frames, hidden)
    draw(model, frames, seen, hidden, arguments.output)


if __name__ == "__main__":
    main()
