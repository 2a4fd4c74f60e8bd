"""What group normalization costs beside a convolution, forward and backward.

Milliseconds of `keras.layers.GroupNormalization`, of that of keras_node, and of
a convolution of 3 x 3, on the images of the benchmarks' `conv` workload, in
turns: a tenth of a graph that applies the layer ten times, and of one that also
takes the gradient to its inputs and weights.

    python benchmarks/normalization.py
"""

import argparse

import keras
import numpy as np
import tensorflow as tf
import timing
import training
import workloads

REPETITIONS = 10


def make_layers(channels):
    """Returns the layers by the name that the table gives them."""
    return {
        "keras_node.GroupNormalization": training.group_norm(),
        "keras.layers.GroupNormalization": keras.layers.GroupNormalization(
            workloads.GROUPS, epsilon=workloads.GROUP_EPSILON
        ),
        "keras.layers.Conv2D": keras.layers.Conv2D(channels, 3, padding="same"),
    }


def make_call(layer, x, backward):
    """Returns a function that applies the layer, with its gradient or not."""
    layer.build(x.shape)

    def apply():
        y = x
        for _ in range(REPETITIONS):
            y = layer(y)
        return tf.reduce_mean(y**2)

    def gradient():
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = apply()
        return tape.gradient(value, [x, *layer.trainable_weights])

    function = tf.function(gradient if backward else apply)
    return timing.stopwatch(function)


def measure(backward, rounds):
    """Returns the median milliseconds of one application of each layer."""
    x = tf.constant(workloads.make("conv").initial_state)
    runs = {
        name: make_call(layer, x, backward)
        for name, layer in make_layers(x.shape[-1]).items()
    }
    timing.alternate(runs, rounds=2)  # Warm up.
    seconds = timing.alternate(runs, rounds)
    milliseconds = 1e3 / REPETITIONS
    return {k: milliseconds * np.median(v) for k, v in seconds.items()}


def main():
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=30)
    rounds = parser.parse_args().rounds
    training.use_benchmark_threads()
    forward, backward = (measure(backward, rounds) for backward in (0, 1))
    timing.print_table(
        "Milliseconds of one layer",
        ("layer", "forward", "with the gradient"),
        [(k, f"{forward[k]:.2f}", f"{backward[k]:.2f}") for k in forward],
    )


if __name__ == "__main__":
    main()
