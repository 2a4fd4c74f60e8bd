"""Who speaks? Irregular series, classified by a neural CDE and its rivals.

Recordings of nine speakers who say /ae/ (UCI Japanese Vowels: 270 and 370
utterances of 7 to 29 frames, 12 cepstral coefficients). A share of the frames
of each utterance is dropped at random, anew in each of 20 versions of the
training utterances and in each of 10 of the test utterances. Compares a neural
CDE, a recurrent network that gets the gaps between frames, an ODE-RNN, and a
latent ODE whose posterior means are classified, of about the same number of
parameters. Prints a table, and draws the accuracies.

    python examples/speakers.py
    python examples/speakers.py --dropped 50 --seeds 0 --models cde gru

Reference:
- [Kidger et al., 2020, section 6.1](https://arxiv.org/abs/2005.08926)
- [Kudo et al., 1999](https://doi.org/10.24432/C5NS47), the recordings
"""

import argparse
import pathlib
import time

import keras
import latent_vowels
import numpy as np
import pictures
from csv_log import append, keep_smoke_apart, read

import keras_node

NUM_SPEAKERS, NUM_FRAMES = 9, latent_vowels.NUM_FRAMES
TIMES, NUM_COEFFICIENTS = latent_vowels.TIMES, latent_vowels.NUM_COEFFICIENTS
# Of the training and of the test utterances.
VERSIONS = (20, 10)


def labels():
    """Returns the speakers of the training and the test utterances."""
    with np.load(latent_vowels.PATH) as arrays:
        return arrays["y_train"], arrays["y_test"]


def keep(lengths, dropped, seed):
    """Returns which frames are seen, at least two of each utterance."""
    rng = np.random.default_rng(seed)
    spoken = np.arange(NUM_FRAMES) < lengths[:, None]
    order = np.where(spoken, rng.random(spoken.shape), 2.0)
    rank = order.argsort(axis=1).argsort(axis=1)
    count = np.round(lengths * (1 - dropped / 100)).astype(int)
    return rank < np.maximum(count, 2)[:, None]


def as_series(frames, seen):
    """Returns utterances as `NeuralCDE` and `LatentODE` take them."""
    times = np.broadcast_to(TIMES, seen.shape)
    return {"values": frames, "times": times, "mask": seen}


def as_steps(frames, seen):
    """Returns the frames seen, one after the other, with the gap to the next.

    `(batch, NUM_FRAMES, NUM_COEFFICIENTS + 1)`, padded with zeros.
    """
    steps = np.zeros((*seen.shape, NUM_COEFFICIENTS + 1), "float32")
    for row, values, mask in zip(steps, frames, seen, strict=True):
        count = mask.sum()
        row[:count, :-1] = values[mask]
        row[: count - 1, -1] = np.diff(TIMES[mask])
    return steps


def versions_of(utterances, dropped, seed, prepare, count):
    """Returns utterances with frames dropped anew in each version."""
    frames, lengths = utterances
    versions = [
        prepare(frames, keep(lengths, dropped, (*seed, i)))
        for i in range(count)
    ]
    return keras.tree.map_structure(lambda *x: np.concatenate(x), *versions)


def make_head():
    """Returns the classifier of a model's features."""
    return keras.Sequential(
        [keras.layers.LayerNormalization(), keras.layers.Dense(NUM_SPEAKERS)]
    )


def make_cde():
    """A neural CDE of levels and changes; means and maxima of its states."""
    shape = (NUM_FRAMES, NUM_COEFFICIENTS)
    inputs = {
        "values": keras.Input(shape, name="values"),
        "times": keras.Input(shape[:1], name="times"),
        "mask": keras.Input(shape[:1], dtype="bool", name="mask"),
    }
    units, channels = 16, 2 * NUM_COEFFICIENTS + 1
    field = keras.Sequential(
        [
            keras.layers.LayerNormalization(),
            keras.layers.Dense(16, "softplus"),
            keras.layers.Dense(units * channels, "tanh"),
        ]
    )
    states = keras_node.NeuralCDE(
        units,
        field,
        interpolation="linear",
        return_sequences=True,
        solver="midpoint",
        integrate_values=True,
        name="cde",
    )(inputs)
    pools = keras.layers.GlobalAveragePooling1D, keras.layers.GlobalMaxPooling1D
    features = keras.layers.Concatenate()([pool()(states) for pool in pools])
    return keras.Model(inputs, make_head()(features))


def _recurrent(layer):
    return keras.Sequential(
        [
            keras.Input((NUM_FRAMES, NUM_COEFFICIENTS + 1)),
            keras.layers.Masking(),
            layer,
            make_head(),
        ]
    )


def make_gru():
    """A recurrent network of frames and gaps."""
    return _recurrent(keras.layers.GRU(42, use_cudnn=False))


def make_ode_rnn():
    """A recurrent network whose state follows an ODE in the gaps."""
    return _recurrent(keras.layers.RNN(keras_node.ODERNNCell(34)))


def make_latent_ode():
    """A latent ODE, whose posterior means are classified afterwards."""
    return keras_node.LatentODE(
        observation_dim=NUM_COEFFICIENTS,
        latent_dim=16,
        encoder=keras.layers.GRU(24, go_backwards=True, use_cudnn=False),
        dynamics=keras.Sequential(
            [keras.layers.Dense(48, "tanh"), keras.layers.Dense(16)]
        ),
        decoder=keras.Sequential(
            [keras.layers.Dense(32, "tanh"), keras.layers.Dense(12)]
        ),
    )


MODELS = {
    "cde": (make_cde, as_series),
    "gru": (make_gru, as_steps),
    "ode_rnn": (make_ode_rnn, as_steps),
    "latent_ode": (make_latent_ode, as_series),
}
LABELS = {
    "cde": "neural CDE",
    "gru": "GRU with gaps",
    "ode_rnn": "ODE-RNN",
    "latent_ode": "latent ODE",
}


def make_optimizer(count, arguments):
    steps = arguments.epochs * -(-count // arguments.batch_size)
    rate = keras.optimizers.schedules.CosineDecay(
        arguments.learning_rate, steps
    )
    return keras.optimizers.AdamW(
        rate, weight_decay=arguments.weight_decay, clipnorm=1.0
    )


def fit_classifier(model, x, y, arguments):
    """Trains a model that tells the speaker; returns its history."""
    model.compile(
        make_optimizer(len(y), arguments),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model.fit(
        x,
        y,
        batch_size=arguments.batch_size,
        epochs=arguments.epochs,
        verbose=0,
    ).history


def run(name, dropped, seed, arguments):
    """Trains and tests one model; returns a row of the log."""
    keras.utils.set_random_seed(seed)
    make, prepare = MODELS[name]
    versions = (1, 1) if arguments.smoke else VERSIONS
    parts = [
        versions_of(utterances, dropped, (seed, part), prepare, count)
        for part, (utterances, count) in enumerate(
            zip(latent_vowels.load().values(), versions, strict=True)
        )
    ]
    speakers = [
        np.tile(speakers, count)
        for speakers, count in zip(labels(), versions, strict=True)
    ]
    model = make()
    start = time.perf_counter()
    if name == "latent_ode":
        model.compile(make_optimizer(len(speakers[0]), arguments))
        history = model.fit(
            parts[0],
            batch_size=arguments.batch_size,
            epochs=arguments.epochs,
            verbose=0,
        ).history
        latent, parts = model, [model.encode(x).mean().numpy() for x in parts]
        model = make_head()
        fit_classifier(model, parts[0], speakers[0], arguments)
        count = latent.count_params() + model.count_params()
    else:
        history = fit_classifier(model, parts[0], speakers[0], arguments)
        count = model.count_params()
    seconds = time.perf_counter() - start
    tested = model.evaluate(parts[1], speakers[1], verbose=0, return_dict=True)
    nfe = [values[-1] for key, values in history.items() if key.endswith("nfe")]
    return {
        "dropped": dropped,
        "model": name,
        "seed": seed,
        "epochs": arguments.epochs,
        "parameters": count,
        "accuracy": round(float(tested["accuracy"]), 4),
        "loss": round(float(tested["loss"]), 4),
        "nfe": round(nfe[0], 1) if nfe else "",
        "seconds_a_version": round(seconds / arguments.epochs / versions[0], 3),
    }


def table_of(rows):
    """Returns mean and all accuracies by dropped share and model."""
    table = {}
    for row in rows:
        key = int(row["dropped"]), row["model"]
        table.setdefault(key, []).append(float(row["accuracy"]))
    return table


def print_table(rows):
    table = table_of(rows)
    models = list(dict.fromkeys(row["model"] for row in rows))
    print("Dropped  " + "".join(f"{name:<30}" for name in models))
    for dropped in sorted({key[0] for key in table}):
        cells = []
        for name in models:
            found = table.get((dropped, name), [])
            seeds = ", ".join(f"{x:.3f}" for x in found)
            cells.append(f"{np.mean(found):.3f} ({seeds})" if found else "")
        print(f"{dropped:>5} %  " + "".join(f"{cell:<30}" for cell in cells))


def draw(rows, path):
    """Draws the accuracies over the share that is dropped."""
    table = table_of(rows)
    models = list(dict.fromkeys(row["model"] for row in rows))
    figure = pictures.new(5, 3.4)
    axis = figure.subplots()
    for color, name in zip(pictures.COLORS, models, strict=False):
        shares = sorted(key[0] for key in table if key[1] == name)
        found = [table[share, name] for share in shares]
        axis.plot(
            shares, list(map(np.mean, found)), c=color, label=LABELS[name]
        )
        for share, values in zip(shares, found, strict=True):
            axis.plot([share] * len(values), values, ".", c=color, ms=5)
    axis.set(xlabel="frames dropped, %", ylabel="test accuracy")
    axis.legend()
    pictures.save(figure, path)


def parse_arguments(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n", maxsplit=1)[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--dropped", type=int, nargs="+", default=[0, 30, 50, 70], help="%%")
    add("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    add("--seeds", type=int, nargs="+", default=[0, 1, 2])
    add("--epochs", type=int, default=5, help="of all versions")
    add("--batch-size", type=int, default=32)
    add("--learning-rate", type=float, default=1e-2)
    add("--weight-decay", type=float, default=0.3)
    add("--log", type=pathlib.Path, default=pathlib.Path("speakers.csv"))
    add("--output", default="speakers.png")
    add("--smoke", action="store_true", help="one of each, to try it")
    arguments = parser.parse_args(argv)
    keep_smoke_apart(arguments, parser)
    if arguments.smoke:
        arguments.dropped, arguments.seeds, arguments.epochs = [50], [0], 1
    return arguments


def main(argv=None):
    """Trains what the log lacks, and shows all of it."""
    arguments = parse_arguments(argv)
    for seed in arguments.seeds:
        for dropped in arguments.dropped:
            for name in arguments.models:
                case = [str(x) for x in (dropped, name, seed, arguments.epochs)]
                done = [list(row.values())[:4] for row in read(arguments.log)]
                if case not in done:
                    row = run(name, dropped, seed, arguments)
                    append(arguments.log, row)
                    print(row, flush=True)
    rows = read(arguments.log)
    print_table(rows)
    draw(rows, arguments.output)
    print(f"Wrote {arguments.log}.")


if __name__ == "__main__":
    main()
