"""Table 1: MNIST by an ODE-Net, an RK-Net, a ResNet, and without a block.

All of MNIST, the same training for all four: random shifts by up to two
pixels, SGD with Nesterov's momentum and decoupled weight decay, its rate
falling from 0.1 to 0 along a cosine. The test error is that of the last epoch,
on all 10,000 digits; no epoch is chosen by it.
"""

import keras
import mnist_odenet
import numpy as np

from examples.reproduce import chosen
from examples.reproduce.logs import Log
from examples.reproduce.training import Run

NETWORKS = ("odenet", "none", "resnet", "rknet")
BATCH_SIZE, EPOCHS, WEIGHT_DECAY, SHIFT = 128, 30, 5e-4, 2
COLUMNS = (
    "run network seed epoch epochs batch_size parameters train_loss "
    "train_accuracy test_loss test_error nfe nfe_backward seconds"
).split()


def load(options):
    """Returns `(x_train, y_train), (x_test, y_test)` of MNIST."""
    if options.mnist is None:
        train, test = keras.datasets.mnist.load_data()
    else:
        with np.load(options.mnist) as mnist:
            train = mnist["x_train"], mnist["y_train"]
            test = mnist["x_test"], mnist["y_test"]
    sizes = (4 * BATCH_SIZE, 64) if options.smoke else (None, None)
    return (
        mnist_odenet.preprocess(*train, sizes[0]),
        mnist_odenet.preprocess(*test, sizes[1]),
    )


def shifted(images, rng):
    """Moves each image by up to `SHIFT` pixels, black coming in."""
    count, height, width, _ = images.shape
    padded = np.pad(images, [(0, 0), (SHIFT, SHIFT), (SHIFT, SHIFT), (0, 0)])
    down, right = rng.integers(0, 2 * SHIFT + 1, (2, count, 1, 1))
    rows = down + np.arange(height)[:, None]
    columns = right + np.arange(width)
    return padded[np.arange(count)[:, None, None], rows, columns]


def epoch_of(train, seed, epoch):
    """Returns the arguments of `fit`, a function of seed and epoch alone.

    Whole batches; each epoch leaves out other digits.
    """
    images, labels = train
    rng = np.random.default_rng((seed, epoch))
    count = len(labels) // BATCH_SIZE * BATCH_SIZE
    order = rng.permutation(len(labels))[:count]
    return {
        "x": shifted(images[order], rng),
        "y": labels[order],
        "batch_size": BATCH_SIZE,
    }


def build(network):
    """Returns a network; the RK-Net is the ODE-Net without an adjoint."""
    block = "odenet" if network == "rknet" else network
    arguments = mnist_odenet.parse_arguments(["--network", block])
    if network == "rknet":
        arguments.adjoint = "direct"
    return mnist_odenet.build_model(arguments)


def compiled(network, steps):
    """Returns a network that is ready for `steps` steps of training."""
    model = build(network)
    rate = keras.optimizers.schedules.CosineDecay(0.1, steps)
    model.compile(
        keras.optimizers.SGD(
            rate, momentum=0.9, nesterov=True, weight_decay=WEIGHT_DECAY
        ),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def train(network, seed, data, options, is_needed=False):
    """Trains a network, if the log lacks it or the model is needed."""
    epochs = options.epochs or (1 if options.smoke else EPOCHS)
    train_data, (images, labels) = data
    steps = epochs * (len(train_data[1]) // BATCH_SIZE)

    def make_model():
        keras.utils.set_random_seed(seed)
        return compiled(network, steps)

    def measure(model, last):
        tested = model.evaluate(
            images, labels, batch_size=500, verbose=0, return_dict=True
        )
        return {
            "parameters": model.count_params(),
            "train_loss": last["loss"],
            "train_accuracy": last["accuracy"],
            "test_loss": tested["loss"],
            "test_error": 100 * (1 - tested["accuracy"]),
            "nfe": last.get("ode_nfe", ""),
            "nfe_backward": last.get("ode_nfe_backward", ""),
        }

    run = Run(
        Log(options.logs / "table1.csv", COLUMNS),
        options.runs,
        f"{network}-{seed}",
        epochs,
        {"network": network, "seed": seed, "batch_size": BATCH_SIZE},
    )
    if run.is_done and not is_needed:
        return None
    return run.fit(
        make_model, lambda epoch: epoch_of(train_data, seed, epoch), measure
    )


def main(options):
    """Trains each network with each seed."""
    data = load(options)
    for seed in options.seeds or [0]:
        for network in chosen(options.only, NETWORKS):
            train(network, seed, data, options)
