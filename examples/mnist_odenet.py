"""Classifies MNIST with a continuous-depth network.

The experiment of section 3 of the Neural ODE paper: two downsampling
convolutions, a block at 6 x 6 x 64, and a linear head. `--network` chooses the
block, and with it the row of the paper's table 1:

- `odenet`: `y(1)` of `dy/dt = f(t, y)`, by an adaptive solver with an adjoint;
- `rknet`: the same, by fixed Runge-Kutta steps that are backpropagated through;
- `resnet`: six residual blocks;
- `none`: no block at all, the baseline to hold the others against.

Trains on the 10,000 digits beside this file, prints a table and writes a plot
of accuracy and of the number of function evaluations (NFE) over the epochs.

    python examples/mnist_odenet.py
    python examples/mnist_odenet.py --network none --output none.png
    python examples/mnist_odenet.py --full --epochs 20

Reference:
- [Chen et al., 2018](https://arxiv.org/abs/1806.07366)
"""

import argparse
import pathlib
import resource
import sys
import time

import keras
import numpy as np
import pictures

import keras_node

FILTERS = 64
RESIDUAL_BLOCKS = 6
RK4_STEP_SIZE = 0.25
SUBSET = pathlib.Path(__file__).with_name("mnist_subset.npz")
SMOKE_TRAIN_DIGITS, SMOKE_TEST_DIGITS, SMOKE_BATCH_SIZE = 32, 16, 16


# Data.


def load_arrays(arguments):
    """Returns `(x_train, y_train), (x_test, y_test)` as Keras gives MNIST."""
    if arguments.full:
        return keras.datasets.mnist.load_data()
    with np.load(arguments.data) as mnist:
        return (
            (mnist["x_train"], mnist["y_train"]),
            (mnist["x_test"], mnist["y_test"]),
        )


def preprocess(images, labels, size=None):
    """Returns the first `size` digits, as `(size, 28, 28, 1)` in [0, 1]."""
    images = images[:size, ..., np.newaxis].astype("float32") / 255
    return images, labels[:size].astype("int32")


def load_data(arguments):
    """Returns the training digits and the test digits."""
    train, test = load_arrays(arguments)
    sizes = (None, None)
    if arguments.smoke:
        sizes = (SMOKE_TRAIN_DIGITS, SMOKE_TEST_DIGITS)
    return preprocess(*train, sizes[0]), preprocess(*test, sizes[1])


# Network.


def group_norm(**kwargs):
    return keras_node.GroupNormalization(groups=32, epsilon=1e-5, **kwargs)


def conv(filters, **kwargs):
    return keras.layers.Conv2D(filters, 3, padding="same", **kwargs)


@keras.saving.register_keras_serializable(package="mnist_odenet")
class ConvDynamics(keras.layers.Layer):
    """The vector field: two convolutions that see the time as a channel.

    Args:
        filters: Integer, the channels of the state, a multiple of 32.
        **kwargs: Other arguments of `keras.layers.Layer`.

    Call arguments:
        t: Float scalar, the time.
        y: Float tensor `(batch, height, width, filters)`, the state.

    Returns:
        `dy/dt`, of the shape of `y`.
    """

    def __init__(self, filters, **kwargs):
        super().__init__(**kwargs)
        self.filters = filters
        self.norms = [group_norm(name=f"norm_{i}") for i in range(3)]
        self.convs = [
            keras_node.ConcatTime(conv(filters, name=f"conv_{i}"))
            for i in range(2)
        ]

    def build(self, t_shape, y_shape):
        for norm in self.norms:
            norm.build(y_shape)
        for concat_conv in self.convs:
            concat_conv.build(t_shape, y_shape)
        self.built = True

    def call(self, t, y):
        for norm, concat_conv in zip(self.norms, self.convs, strict=False):
            y = concat_conv(t, keras.ops.relu(norm(y)))
        return self.norms[-1](y)

    def get_config(self):
        config = super().get_config()
        config.update({"filters": self.filters})
        return config


def downsample(images):
    """Takes `(batch, 28, 28, 1)` to `(batch, 6, 6, FILTERS)`."""
    y = keras.layers.Conv2D(FILTERS, 3)(images)
    for _ in range(2):
        y = keras.layers.ReLU()(group_norm()(y))
        y = keras.layers.ZeroPadding2D(1)(y)
        y = keras.layers.Conv2D(FILTERS, 4, strides=2)(y)
    return y


def ode_block(y, solver, adjoint):
    layer = keras_node.ODELayer(
        ConvDynamics(FILTERS),
        times=(0.0, 1.0),
        solver=solver,
        adjoint=adjoint,
        name="ode",
    )
    return layer(y)


def residual_blocks(y):
    for _ in range(RESIDUAL_BLOCKS):
        residual = y
        for _ in range(2):
            residual = keras.layers.ReLU()(group_norm()(residual))
            residual = conv(FILTERS)(residual)
        y = keras.layers.Add()([y, residual])
    return y


def classify(y):
    """Takes the features to the logits of the ten digits."""
    y = keras.layers.ReLU()(group_norm()(y))
    y = keras.layers.GlobalAveragePooling2D()(y)
    return keras.layers.Dense(10)(y)


def adaptive_solver(arguments):
    """Returns the named solver with `--rtol` for both its tolerances."""
    solver_class = type(keras_node.solvers.get(arguments.solver))
    return solver_class(rtol=arguments.rtol, atol=arguments.rtol)


def apply_block(y, arguments):
    """Applies the part of the network that `--network` is about."""
    if arguments.network == "odenet":
        return ode_block(y, adaptive_solver(arguments), arguments.adjoint)
    if arguments.network == "rknet":
        solver = keras_node.solvers.RK4(step_size=RK4_STEP_SIZE)
        return ode_block(y, solver, "direct")
    if arguments.network == "resnet":
        return residual_blocks(y)
    return y


def build_model(arguments):
    images = keras.Input((28, 28, 1))
    features = apply_block(downsample(images), arguments)
    return keras.Model(images, classify(features), name=arguments.network)


# Training.


def compile_model(model, arguments, num_steps):
    schedule = keras.optimizers.schedules.CosineDecay(
        arguments.learning_rate, num_steps
    )
    model.compile(
        optimizer=keras.optimizers.SGD(schedule, momentum=0.9, nesterov=True),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        # Two batches are over before the graphs would be traced.
        run_eagerly=arguments.smoke,
    )


def train(model, train_data, test_data, arguments):
    """Fits the model; returns its history and the seconds per epoch."""
    images, labels = train_data
    num_batches = -(-len(labels) // arguments.batch_size)
    compile_model(model, arguments, num_batches * arguments.epochs)
    start = time.perf_counter()
    history = model.fit(
        images,
        labels,
        batch_size=arguments.batch_size,
        epochs=arguments.epochs,
        validation_data=test_data,
        verbose=arguments.verbose,
    ).history
    return history, (time.perf_counter() - start) / arguments.epochs


# Report.


def peak_memory():
    """Returns the largest resident set of this process so far, in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def last(history, name):
    """Returns the last epoch's value of a metric, or "-" without it."""
    return f"{history[name][-1]:.1f}" if name in history else "-"


def report(model, history, seconds):
    """Returns the table that the example ends with."""
    error = 100 * (1 - history["val_accuracy"][-1])
    rows = {
        "Network": model.name,
        "Test error": f"{error:.2f} %",
        "Parameters": f"{model.count_params():,}",
        "NFE forward": last(history, "ode_nfe"),
        "NFE backward": last(history, "ode_nfe_backward"),
        "Seconds per epoch": f"{seconds:.1f}",
        "Peak memory": f"{peak_memory():.0f} MB",
    }
    return "\n".join(f"{name:<18} {value:>12}" for name, value in rows.items())


def plot_metrics(axes, history, labels):
    """Draws those of the metrics in `labels` that the history has."""
    for name, label in labels.items():
        if name in history:
            epochs = range(1, len(history[name]) + 1)
            axes.plot(epochs, history[name], "o-", label=label)
    if axes.lines:
        axes.legend()
    axes.set_xlabel("epoch")
    axes.xaxis.get_major_locator().set_params(integer=True)


def plot(history, title, path):
    """Writes a PNG: accuracy on the left, NFE on the right."""
    figure = pictures.new(9, 3.5)
    left, right = figure.subplots(1, 2)
    plot_metrics(
        left, history, {"accuracy": "training", "val_accuracy": "test"}
    )
    left.set(ylabel="accuracy", title=title)
    plot_metrics(
        right, history, {"ode_nfe": "forward", "ode_nfe_backward": "backward"}
    )
    right.set(ylabel="NFE per batch", title="function evaluations")
    pictures.save(figure, path)


# Command line.


def parse_arguments(argv=None):
    parser = argparse.ArgumentParser(
        description="Classify MNIST with a Neural ODE, and with its peers.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    networks = ("odenet", "resnet", "rknet", "none")
    add("--network", choices=networks, default="odenet", help="the block")
    add("--solver", default="bosh3", help="of odenet, by name")
    add("--rtol", type=float, default=1e-2, help="of odenet, also its atol")
    add("--adjoint", default="auto", help="of odenet, by name")
    add("--epochs", type=int, default=3, help="over the training digits")
    add("--batch-size", type=int, default=64, help="digits per step")
    add("--learning-rate", type=float, default=0.1, help="decays to zero")
    add("--seed", type=int, default=0, help="of weights and batches")
    add("--output", default="mnist_odenet.png", help="the plot to write")
    add("--verbose", type=int, default=1, help="as in `fit`")
    data = parser.add_mutually_exclusive_group()
    data.add_argument("--data", default=SUBSET, help="an .npz of digits")
    data.add_argument("--full", action="store_true", help="all of MNIST")
    add("--smoke", action="store_true", help="one epoch of a few digits")
    arguments = parser.parse_args(argv)
    if arguments.smoke:
        arguments.epochs, arguments.batch_size = 1, SMOKE_BATCH_SIZE
    return arguments


def main(argv=None):
    arguments = parse_arguments(argv)
    keras.utils.set_random_seed(arguments.seed)
    train_data, test_data = load_data(arguments)
    model = build_model(arguments)
    history, seconds = train(model, train_data, test_data, arguments)
    print(report(model, history, seconds))
    plot(history, f"MNIST, {model.name}", arguments.output)


if __name__ == "__main__":
    main()
