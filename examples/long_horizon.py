"""Learns a long oscillation, on which plain training finds the mean.

A network of the state learns a damped oscillation of twelve periods from 240
noisy observations, by the same number of steps in three ways: over the whole
trajectory, over a horizon that grows, and by multiple shooting. The error is
that of one solve through the whole trajectory. Run it from anywhere:

    python examples/long_horizon.py
"""

import argparse
import pathlib
import time

import keras
import numpy as np
import pictures
import tensorflow as tf

import keras_node

NUM_TIMES, END, DAMPING, FREQUENCY = 240, 24.0, 0.03, np.pi
NOISE = 0.05
TIMES = np.linspace(0.0, END, NUM_TIMES)
WAYS = ("plain", "growing horizon", "multiple shooting")


def make_data(seed):
    """Returns the exact states and noisy ones, `(1, T, 2)`."""
    phase = FREQUENCY * TIMES
    states = np.stack([np.cos(phase), np.sin(phase)], axis=-1)
    states = (np.exp(-DAMPING * TIMES)[:, None] * states)[None]
    noise = np.random.default_rng(seed).normal(size=states.shape)
    return states, states + NOISE * noise


def make_layer():
    """Returns an `ODELayer` that solves through all times."""
    dense = keras.layers.Dense
    field = keras.Sequential([dense(32, "tanh"), dense(32, "tanh"), dense(2)])
    solver = keras_node.solvers.Tsit5(on_failure="nan")
    return keras_node.ODELayer(field, TIMES, solver, return_sequences=True)


class Shooting(keras.Model):
    """Trains a layer by multiple shooting, and predicts by one solve."""

    def __init__(self, layer, num_segments=24, weight=1.0):
        super().__init__()
        self.layer, self.num_segments, self.weight = layer, num_segments, weight

    def call(self, states, training=False):
        if not training:
            return self.layer(states[:, 0])
        predictions, penalty = keras_node.multiple_shooting(
            self.layer, states, TIMES, self.num_segments
        )
        self.add_loss(self.weight * penalty)
        return predictions


def train(way, noisy, arguments):
    """Returns the states that a trained model predicts."""
    keras.utils.set_random_seed(arguments.seed)
    layer = make_layer()
    rate = keras.optimizers.schedules.CosineDecay(1e-2, arguments.steps)
    optimizer = keras.optimizers.Adam(rate, clipnorm=1.0)
    inputs, loss, callbacks = noisy[:, 0], "mse", []
    model = keras.Sequential([layer])
    if way == "growing horizon":
        horizon = keras_node.callbacks.GrowHorizon(
            NUM_TIMES, start=10, num_epochs=max(1, arguments.steps * 2 // 3)
        )
        loss, callbacks = horizon.loss("mse"), [horizon]
    if way == "multiple shooting":
        inputs, model = noisy, Shooting(layer)
    model.compile(optimizer, loss)
    model.fit(
        inputs, noisy, epochs=arguments.steps, callbacks=callbacks, verbose=0
    )
    return model.predict(inputs, verbose=0)


def draw(exact, noisy, predictions, path):
    """Draws the first component of each prediction over the data."""
    figure = pictures.new(8, 5)
    axes = figure.subplots(len(predictions), sharex=True, sharey=True)
    for axis, (way, states) in zip(axes, predictions.items(), strict=True):
        axis.plot(TIMES, noisy[0, :, 0], ".", c="0.7", ms=3, label="observed")
        axis.plot(TIMES, exact[0, :, 0], c="0.4", lw=0.8, label="exact")
        axis.plot(TIMES, states[0, :, 0], c="C0", label="predicted")
        axis.set_title(way)
    axes[0].legend(loc="upper right", ncols=3)
    axes[-1].set_xlabel("time")
    pictures.save(figure, path)


def parse_arguments(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n", maxsplit=1)[0]
    )
    parser.add_argument("--steps", type=int, default=1_500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--smoke", action="store_true", help="two steps")
    parser.add_argument(
        "--output", type=pathlib.Path, default="long_horizon.png"
    )
    arguments = parser.parse_args(argv)
    if arguments.smoke:
        arguments.steps = 2
    return arguments


def main(argv=None):
    arguments = parse_arguments(argv)
    exact, noisy = make_data(arguments.seed)
    size = float(np.sqrt(np.mean(exact**2)))
    predictions = {}
    print(f"{'':20}{'RMSE':>8}{'seconds':>9}   (the mean: {size:.3f})")
    for way in WAYS:
        start = time.perf_counter()
        predictions[way] = train(way, noisy.astype("float32"), arguments)
        seconds = time.perf_counter() - start
        error = float(np.sqrt(np.mean((predictions[way] - exact) ** 2)))
        print(f"{way:20}{error:8.3f}{seconds:9.0f}", flush=True)
    draw(exact, noisy, predictions, arguments.output)
    return predictions


if __name__ == "__main__":
    tf.get_logger().setLevel("ERROR")
    main()
