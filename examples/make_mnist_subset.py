"""Makes `mnist_subset.npz`, the digits that `mnist_odenet.py` trains on.

A seeded random choice of 10,000 training and 2,000 test digits, each taken
from its own half of MNIST, as uint8 arrays in the layout of
`keras.datasets.mnist`: `x_train`, `y_train`, `x_test`, `y_test`.

    python examples/make_mnist_subset.py mnist.npz

Reference:
- [LeCun, Bottou, Bengio & Haffner, 1998](https://doi.org/10.1109/5.726791)
"""

import argparse
import pathlib

import numpy as np

DEFAULT_OUTPUT = pathlib.Path(__file__).with_name("mnist_subset.npz")


def choose(images, labels, size, rng):
    """Returns `size` of the digits and their labels, none of them twice."""
    chosen = rng.permutation(len(labels))[:size]
    return images[chosen], labels[chosen]


def make_subset(mnist, train_size, test_size, seed):
    """Returns the four arrays of a random subset of `mnist`."""
    rng = np.random.default_rng(seed)
    subset = {}
    for half, size in (("train", train_size), ("test", test_size)):
        subset[f"x_{half}"], subset[f"y_{half}"] = choose(
            mnist[f"x_{half}"], mnist[f"y_{half}"], size, rng
        )
    return subset


def parse_arguments(argv=None):
    parser = argparse.ArgumentParser(
        description="Make a small subset of MNIST from the whole of it."
    )
    parser.add_argument("mnist", help="an .npz file laid out as Keras's MNIST")
    parser.add_argument("--output", default=DEFAULT_OUTPUT)
    parser.add_argument("--train", type=int, default=10_000)
    parser.add_argument("--test", type=int, default=2_000)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(argv)


def main(argv=None):
    arguments = parse_arguments(argv)
    with np.load(arguments.mnist) as mnist:
        subset = make_subset(
            mnist, arguments.train, arguments.test, arguments.seed
        )
    np.savez_compressed(arguments.output, **subset)


if __name__ == "__main__":
    main()
